from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import registry
from rlserve.batching.collate import BatchLayout, collate
from rlserve.batching.filters import why_drop
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig
from rlserve.records import PreferenceRole
from tests.support.groups import group, trajectory


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 8), min_size=3, max_size=3), min_size=1, max_size=5),
    pack=st.booleans(),
    ranks=st.integers(1, 2),
)
def test_both_completions_of_a_pair_are_in_one_micro_batch(lengths, pack, ranks):
    algorithm = registry.create(DpoConfig(pairs={"selection": "all", "pairs_per_group": 9}))
    groups = [group([1, 0, 0], n, index=i) for i, n in enumerate(lengths)]
    layout = BatchLayout(tokens_per_micro_batch=30, max_new_tokens=20, packing=pack, ranks=ranks)
    batch = collate(groups, algorithm, layout, version=0)
    seen, weight = [], 0.0
    for micro in (m for rank in batch.micro_batches for m in rank):
        for pair in micro.pair_ids[micro.pair_ids >= 0].unique().tolist():
            here = micro.pair_ids == pair
            sides = {
                int(s): float(micro.preferred[micro.sequence_ids == s].max()) for s in micro.sequence_ids[here].unique()
            }
            assert sorted(sides.values()) == [0.0, 1.0]
            seen.append(pair)
            weight += float(micro.weights[here].max())
    assert sorted(seen) == list(range(2 * len(lengths)))
    assert weight == pytest.approx(1.0)
    chosen = sum(2 * n[0] for n in lengths)
    assert batch.denominator.preferred_tokens == chosen


def test_pairs_made_offline_keep_their_roles():
    grp = group([None, None])
    roles = (PreferenceRole.REJECTED, PreferenceRole.CHOSEN)
    members = tuple(replace(t, preference_role=r) for t, r in zip(grp.trajectories, roles, strict=True))
    grp = replace(grp, trajectories=members)
    algorithm = registry.create(DpoConfig(pairs={"selection": "given"}))
    assert why_drop(grp, algorithm) is None
    batch = collate([grp], algorithm, BatchLayout(tokens_per_micro_batch=30, max_new_tokens=20), version=0)
    ((micro,),) = batch.micro_batches
    preferred = micro.token_ids[(micro.preferred > 0)]
    assert preferred.tolist() == members[1].token_ids.tolist()


def test_kto_takes_every_completion_with_a_verdict():
    algorithm = registry.create(KtoConfig())
    grp = replace(group([1, 0, None]), trajectories=(trajectory(2, 1.0), trajectory(3, 0.0), trajectory(4, None)))
    batch = collate([grp], algorithm, BatchLayout(tokens_per_micro_batch=30, max_new_tokens=20), version=0)
    ((micro,),) = batch.micro_batches
    assert batch.denominator.sequences == 2
    assert micro.preferred[micro.loss_mask > 0].tolist() == [0, 0, 0, 1, 1]
    assert micro.weights[micro.loss_mask > 0].unique().tolist() == [0.5]
