from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import registry
from rlserve.batching.collate import BatchLayout, collate
from rlserve.batching.summary import summarize
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.records import FinishReason, PolicySpan, Segment, SegmentKind
from tests.support.groups import group, trajectory

GRPO = registry.create(GrpoConfig(advantage="group_mean"))
REWARDS = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=4)


def layout(**options):
    return BatchLayout(**({"tokens_per_micro_batch": 64, "max_new_tokens": 20} | options))


def flat(batch):
    return [b for rank in batch.micro_batches for b in rank]


@settings(max_examples=40, deadline=None)
@given(rewards=st.lists(REWARDS, min_size=1, max_size=5), ranks=st.integers(1, 3), pack=st.booleans())
def test_every_trained_token_arrives_once_with_what_the_engine_recorded(rewards, ranks, pack):
    groups = [group(r, [1 + (i + j) % 9 for j in range(len(r))], index=i) for i, r in enumerate(rewards)]
    batch = collate(groups, GRPO, layout(ranks=ranks, packing=pack, tokens_per_micro_batch=24), version=2)
    assert len({len(rank) for rank in batch.micro_batches}) == 1
    members = [(g, t) for g, grp in enumerate(groups) for t in grp.trajectories]
    seen = set()
    for b in flat(batch):
        for number in b.sequence_ids[b.sequence_ids >= 0].unique().tolist():
            assert number not in seen
            seen.add(number)
            g, t = members[number]
            here = b.sequence_ids == number
            trained = here & (b.loss_mask > 0)
            assert b.token_ids[here].tolist() == t.token_ids.tolist()
            assert b.position_ids[here].tolist() == list(range(len(t.token_ids)))
            assert b.token_ids[trained].tolist() == t.token_ids[3:].tolist()
            assert b.behavior_logprobs[trained].tolist() == t.behavior_logprobs.tolist()
            assert (b.group_ids[here] == g).all()
            assert (b.lag[trained] == 2).all()
            mean = sum(rewards[g]) / len(rewards[g])
            expected = t.verdict.reward - mean
            assert b.advantages[trained].tolist() == pytest.approx([expected] * t.num_sampled, abs=1e-6)
    assert seen == {number for number, (g, _) in enumerate(members) if len(set(rewards[g])) > 1}
    assert batch.denominator.tokens == sum(t.num_sampled for _, t in members)
    assert batch.denominator.sequences == len(members)
    assert batch.summary["batch/sequences_without_gradient"] == len(members) - len(seen)
    trained = sum(int(torch.count_nonzero(b.loss_mask)) for b in flat(batch))
    assert trained == sum(members[number][1].num_sampled for number in seen)


def test_the_same_groups_give_the_same_tensors():
    groups = [group([1, 0, 0], index=i) for i in range(4)]
    one, two = (collate(groups, GRPO, layout(ranks=2), version=0) for _ in range(2))
    for a, b in zip(flat(one), flat(two), strict=True):
        for name in a.__dataclass_fields__:
            left, right = getattr(a, name), getattr(b, name)
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def test_environment_turns_are_context_and_each_token_has_its_own_lag():
    turn = replace(
        trajectory(3, 1.0),
        token_ids=trajectory(4, 1.0).token_ids,
        segments=(
            Segment(kind=SegmentKind.GIVEN, length=2),
            Segment(kind=SegmentKind.SAMPLED, length=2),
            Segment(kind=SegmentKind.ENVIRONMENT, length=2),
            Segment(kind=SegmentKind.SAMPLED, length=1),
        ),
        policy_spans=(PolicySpan(5, 1), PolicySpan(7, 2)),
    )
    grp = replace(group([1, 0]), trajectories=(turn, trajectory(2, 0.0, spans=[(7, 2)])))
    (batch,) = flat(collate([grp], GRPO, layout(), version=8))
    row = int((batch.sequence_ids[:, 0] == 0).nonzero())
    assert batch.loss_mask[row].tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert batch.lag[row].tolist() == [0, 0, 3, 1, 0, 0, 1]
    assert batch.behavior_logprobs[row][[2, 3, 6]].tolist() == turn.behavior_logprobs.tolist()
    assert (batch.advantages[row] != 0).tolist() == (batch.loss_mask[row] > 0).tolist()


def test_tokens_older_than_the_bound_are_masked_and_their_sequence_kept():
    old = trajectory(4, 1.0, spans=[(3, 1), (6, 3)])
    grp = replace(group([1, 0]), trajectories=(old, trajectory(2, 0.0, spans=[(7, 2)])))
    for bound, tokens in ((None, 6), (4, 5), (1, 2), (0, 0)):
        batch = collate([grp], GRPO, layout(max_token_lag=bound), version=8)
        (micro,) = flat(batch)
        assert batch.denominator.tokens == micro.loss_mask.sum() == tokens
        assert batch.denominator.sequences == 2
        assert bound is None or (micro.lag[micro.loss_mask > 0] <= bound).all()


def test_a_first_token_that_was_sampled_is_not_trained_on():
    grp = replace(group([1, 0]), trajectories=(trajectory(3, 1.0, prompt=0), trajectory(3, 0.0)))
    (batch,) = flat(collate([grp], GRPO, layout(), version=0))
    row = int((batch.sequence_ids[:, 0] == 0).nonzero())
    assert batch.loss_mask[row][:3].tolist() == [0, 1, 1]


def test_a_rank_without_work_gets_a_filler_that_trains_nothing():
    groups = [group([1, 0], [5, 5])]
    batch = collate(groups, GRPO, layout(ranks=3), version=0)
    assert [len(rank) for rank in batch.micro_batches] == [1, 1, 1]
    (filler,) = batch.micro_batches[2]
    assert filler.loss_mask.sum() == 0
    assert (filler.sequence_ids == -1).all()


def test_padding_is_invisible_to_the_causal_mask():
    (batch,) = flat(collate([group([1, 0], [2, 6])], GRPO, layout(pad_id=29), version=0))
    assert batch.position_ids.diff(dim=1).eq(1).all()
    pad = batch.sequence_ids == -1
    assert pad.sum() == 4
    assert (batch.token_ids[pad] == 29).all()


@pytest.mark.parametrize(
    ("lengths", "max_length", "budget", "width"),
    [([2, 6], 64, 64, 12), ([2, 6], 11, 64, 11), ([2, 6], 9, 64, 9), ([5, 1], 64, 64, 8), ([10, 10], 64, 13, 13)],
)
def test_rows_are_widened_to_few_widths_within_every_bound(lengths, max_length, budget, width):
    batch = collate(
        [group([1, 0], lengths)], GRPO, layout(max_length=max_length, tokens_per_micro_batch=budget), version=0
    )
    assert {b.token_ids.shape[1] for b in flat(batch)} == {width}
    assert all(b.token_ids.numel() <= budget for b in flat(batch))
    assert batch.denominator.tokens == sum(lengths)


def test_the_summary_counts_what_was_verified():
    cut = trajectory(6, 0.0, member=2, finish=FinishReason.LENGTH, spans=[(1, 2), (3, 4)])
    one = group([1, None], [2, 4])
    one = replace(one, trajectories=(*one.trajectories, cut))
    two = group([0.5, 0.5], [2, 2], index=1, environment="gsm8k")
    summary = summarize([one, two], version=3)
    assert summary["reward/mean"] == pytest.approx(0.5)
    assert summary["reward/accuracy"] == pytest.approx(0.25)
    assert summary["reward/arithmetic/mean"] == pytest.approx(0.5)
    assert summary["reward/gsm8k/accuracy"] == 0
    assert summary["reward/no_verdict_share"] == pytest.approx(0.2)
    assert summary["length/truncated_share"] == pytest.approx(0.2)
    assert summary["length/mean"] == pytest.approx(16 / 5)
    assert summary["lag/max"] == 3
    assert summary["lag/mean"] == pytest.approx((10 * 3 + 2 * 2 + 4 * 0) / 16)
    assert summary["lag/mixed_version_share"] == pytest.approx(0.2)


def test_no_groups_is_a_summary_too():
    assert summarize([], version=0) == {"batch/groups": 0.0, "batch/samples": 0.0}
