from rlserve.bench import learner


def test_the_learner_does_the_same_work_as_a_plain_loop():
    numbers = learner.measure(rounds=3, sequences=96)
    assert numbers["largest_weight_difference"] < learner.LR / 2  # other kernels round otherwise
    assert numbers["micro_batches"] > 1
    assert numbers["ratio"] > 0
