from rlserve.bench import learner


def test_the_learner_does_the_same_work_as_a_plain_loop_in_about_the_same_time():
    numbers = learner.measure(rounds=3, sequences=96)
    assert numbers["largest_weight_difference"] < learner.LR / 2  # other kernels round otherwise
    assert numbers["micro_batches"] > 1
    assert numbers["ratio"] < 1.25  # the target is 1.15; the rest is for a busy machine
