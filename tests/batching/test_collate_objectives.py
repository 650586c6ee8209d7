from dataclasses import replace

import numpy as np
import pytest
import torch

from rlserve.algorithms import metrics, registry
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.batching.collate import BatchLayout, collate
from rlserve.batching.filters import why_drop
from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.errors import InvalidRequest
from rlserve.records import ObjectiveWeights, TeacherScores
from rlserve.tokens.alignment import align, span_scores
from tests.support.groups import group, trajectory

VOCABULARY = 32
SAMPLED = registry.create(DistillConfig())
TOP_K = registry.create(DistillConfig(estimator="top_k", beta=0.5))


def layout(**options):
    return BatchLayout(**({"tokens_per_micro_batch": 1000, "max_new_tokens": 20} | options))


def scores(sampled, k=0, seed=0, **options):
    generator = np.random.default_rng([seed, sampled, k])
    top = np.sort(generator.dirichlet(np.ones(k + 1), sampled).astype(np.float32), axis=1)[:, ::-1]
    return TeacherScores(
        teacher="big",
        tokenizer_fingerprint="t",
        weights_digest="d",
        logprobs=-generator.random(sampled).astype(np.float32),
        top_ids=np.stack([generator.permutation(VOCABULARY)[:k] for _ in range(sampled)]).astype(np.int64),
        top_logprobs=np.log(top[:, :k]),
        log_tail=np.log(top[:, k]) if k else np.zeros(0, np.float32),
        **options,
    )


def taught(lengths, k=0, index=0, rewards=None):
    grp = group(rewards or [None] * len(lengths), lengths, index=index)
    members = tuple(
        replace(t, teacher_scores=(scores(n, k, seed=index),)) for t, n in zip(grp.trajectories, lengths, strict=True)
    )
    return replace(grp, trajectories=members)


def flat(batch):
    return [b for rank in batch.micro_batches for b in rank]


@pytest.mark.parametrize("pack", [False, True])
def test_a_teachers_scores_arrive_at_the_tokens_that_they_are_about(pack):
    grp = taught([3, 5], k=2)
    batch = collate([grp], TOP_K, layout(packing=pack, ranks=3), version=0)
    assert batch.denominator.teacher_tokens == 8
    seen = 0
    for micro in flat(batch):
        for number in micro.sequence_ids[micro.sequence_ids >= 0].unique().tolist():
            scored = (micro.sequence_ids == number) & (micro.teacher_mask > 0)
            expected = grp.trajectories[number].teacher_scores[0]
            assert micro.teacher_logprobs[scored].tolist() == expected.logprobs.tolist()
            assert micro.teacher_top_ids[scored].tolist() == expected.top_ids.tolist()
            assert micro.teacher_top_logprobs[scored].tolist() == expected.top_logprobs.tolist()
            assert micro.teacher_log_tail[scored].tolist() == expected.log_tail.tolist()
            assert scored.equal((micro.sequence_ids == number) & (micro.position_ids >= 3))
            seen += 1
    assert seen == 2
    assert {type(m.teacher_top_ids) for m in flat(batch)} == {torch.Tensor}


def test_a_group_that_no_teacher_scored_is_dropped_for_that_reason():
    assert why_drop(group([1, 0]), SAMPLED) == "no_teacher"
    assert why_drop(taught([3, 2]), SAMPLED) is None


def test_spans_of_a_teacher_with_another_tokenizer_are_kept_apart():
    """Student ends 2 5 11 14 against teacher ends 5 11: two tokens, one token, and one without a score."""
    spans = align([2, 5, 11, 14], [5, 11])
    laid = span_scores(spans, [-0.4, -1.3], 4)
    lengths = np.array([s.student_stop - s.student_start for s in spans])
    members = tuple(
        replace(
            trajectory(4, None, member=i),
            teacher_scores=(replace(scores(4), logprobs=laid.logprobs, span_lengths=lengths),),
        )
        for i in range(2)
    )
    grp = replace(group([None, None]), trajectories=members)
    for pack in (False, True):
        (micro,) = flat(collate([grp], SAMPLED, layout(packing=pack), version=0))
        for number in (0, 1):
            here = (micro.sequence_ids == number) & (micro.position_ids >= 3)
            ids = micro.span_ids[here].tolist()
            assert ids[0] == ids[1] != ids[2]
            assert ids[3] == -1
            assert micro.teacher_mask[here].tolist() == [1, 1, 1, 0]
        assert micro.span_ids.unique().numel() == 1 + 4
        sums = [float(micro.teacher_logprobs[micro.span_ids == i].sum()) for i in micro.span_ids.unique() if i >= 0]
        assert sums == pytest.approx([-0.4, -1.3, -0.4, -1.3])


@pytest.mark.parametrize("k", [0, 2])
def test_tops_at_two_temperatures_are_refused_and_sampled_tokens_may_have_their_own(k):
    members = taught([3, 2], k=k).trajectories
    cold = replace(members[0], teacher_scores=(replace(members[0].teacher_scores[0], temperature=0.5),))
    given = [replace(taught([3, 2]), trajectories=(cold, members[1]))]
    if not k:
        assert collate(given, SAMPLED, layout(), version=0).denominator.teacher_tokens == 5
        return
    with pytest.raises(InvalidRequest, match=r"temperature: are \[0.5, 1.0\]"):
        collate(given, TOP_K, layout(), version=0)


def example(length, weights):
    bare = trajectory(0, None, prompt=length)
    return replace(bare, objective_weights=(ObjectiveWeights(objective="supervised", weights=weights),))


MIXED = MixedConfig(
    reward=GrpoConfig(), distill=DistillConfig(), reward_weight=2.0, distill_weight=0.5, supervised_weight=0.3
)


def mixture():
    rewarded = group([1, 0, 0], [3, 4, 2], index=0)
    scored = taught([4, 2], index=1)
    text = replace(group([None]), group_id="sft", trajectories=(example(6, np.array([0, 0, 1, 1, 1, 0], np.float32)),))
    return [rewarded, scored, text]


def through(algorithm, batch):
    """(loss, metrics) with logits that depend on nothing but the token before."""
    torch.manual_seed(0)
    table = torch.randn(VOCABULARY, VOCABULARY, dtype=torch.float64)
    total, parts = 0.0, []
    for micro in flat(batch):
        outputs = policy_outputs(table[micro.token_ids], micro, needs=algorithm.needs)
        out = algorithm.loss(outputs, micro, batch.denominator)
        total += float(out.loss)
        parts.append(out.metrics)
    return total, metrics.results(metrics.merge(parts))


def test_a_mixture_is_the_weighted_sum_of_its_parts_alone():
    """More of one kind in the batch does not dilute another: each part is a mean over its own tokens."""
    rewarded, scored, text = mixture()
    mixed = registry.create(MIXED)
    assert [why_drop(g, mixed) for g in mixture()] == [None, None, None]
    loss, measured = through(mixed, collate(mixture(), mixed, layout(tokens_per_micro_batch=16), version=0))
    grpo = registry.create(GrpoConfig())
    by_reward, _ = through(grpo, collate([rewarded], grpo, layout(), version=0))
    by_teacher, _ = through(SAMPLED, collate([scored], SAMPLED, layout(), version=0))
    torch.manual_seed(0)
    table = torch.randn(VOCABULARY, VOCABULARY, dtype=torch.float64).log_softmax(-1)
    ids = text.trajectories[0].token_ids
    entropy = -sum(float(table[ids[t - 1], ids[t]]) for t in (2, 3, 4)) / 3
    assert loss == pytest.approx(2.0 * by_reward + 0.5 * by_teacher + 0.3 * entropy, abs=1e-6)
    assert measured["supervised_loss"] == pytest.approx(entropy)
    assert measured["reward_loss"] == pytest.approx(by_reward, abs=1e-6)
    assert measured["distill_loss"] == pytest.approx(by_teacher, abs=1e-6)


def test_a_mixture_drops_what_no_part_wants():
    mixed = registry.create(MIXED)
    assert why_drop(group([1, 1]), mixed) == "zero_variance"
    assert why_drop(taught([2, 2], rewards=[1, 1]), mixed) is None
    batch = collate([taught([2, 2], rewards=[1, 1])], mixed, layout(), version=0)
    assert batch.denominator.tokens == 0
    assert batch.denominator.teacher_tokens == 4


@pytest.mark.parametrize("algorithm", [TOP_K, SAMPLED, registry.create(MIXED)], ids=["top_k", "sampled", "mixed"])
def test_splits_packing_and_ranks_change_neither_loss_nor_metrics(algorithm):
    groups = [taught([3, 5, 2], k=3, rewards=[1, 0, 0]), taught([4, 1], k=3, index=1, rewards=[0, 1])]
    layouts = [
        layout(),
        layout(tokens_per_micro_batch=10),
        layout(packing=True),
        layout(packing=True, tokens_per_micro_batch=12, ranks=2),
        layout(ranks=6),
    ]
    results = [through(algorithm, collate(groups, algorithm, given, version=1)) for given in layouts]
    for loss, measured in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-6)
        assert measured == pytest.approx(results[0][1], abs=1e-5)
