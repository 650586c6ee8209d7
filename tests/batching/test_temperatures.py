"""Each token is scored at the temperature at which it was sampled, so that unchanged weights have ratio 1."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import metrics, registry
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.batching.collate import BatchLayout, collate
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.records import RolloutGroup, Trajectory
from tests.support.groups import group

VOCABULARY = 32


def sampled_from(table: torch.Tensor, trajectory: Trajectory, temperature: float) -> Trajectory:
    """The trajectory with the log-probabilities of a policy whose logits are ``table[token before]``."""
    scored = (table / (temperature or 1.0)).log_softmax(-1)
    ids, places = trajectory.token_ids, np.flatnonzero(trajectory.sampled_mask)
    logprobs = np.array([float(scored[ids[t - 1], ids[t]]) for t in places], dtype=np.float32)
    return replace(trajectory, behavior_logprobs=logprobs, temperature=temperature)


def group_at(table: torch.Tensor, temperatures: tuple[float, float], index: int) -> RolloutGroup:
    made = group([1, 0], [5, 3], index=index)
    members = zip(made.trajectories, temperatures, strict=True)
    return replace(made, trajectories=tuple(sampled_from(table, t, temperature) for t, temperature in members))


temperatures = st.sampled_from([0.0, 0.4, 1.0, 1.7])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(temperatures, temperatures), min_size=1, max_size=3), st.booleans())
def test_unchanged_weights_have_ratio_one_at_any_mixture_of_temperatures(
    each: list[tuple[float, float]], pack: bool
) -> None:
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
    groups = [group_at(table, pair, index) for index, pair in enumerate(each)]
    algorithm = registry.create(GrpoConfig())
    layout = BatchLayout(tokens_per_micro_batch=16, max_new_tokens=20, packing=pack)
    batch = collate(groups, algorithm, layout, version=0)
    parts = []
    for micro in (micro for rank in batch.micro_batches for micro in rank):
        outputs = policy_outputs(table[micro.token_ids], micro, needs=algorithm.needs)
        torch.testing.assert_close(outputs.logprobs * micro.loss_mask, micro.behavior_logprobs * micro.loss_mask)
        parts.append(algorithm.loss(outputs, micro, batch.denominator).metrics)
    measured = metrics.results(metrics.merge(parts))
    assert measured["mismatch_kl"] == pytest.approx(0, abs=1e-6)
    assert measured["ess"] == pytest.approx(1, abs=1e-5)
