"""Every algorithm, from groups to a step: a table of next-token logits learns what it is rewarded for."""

import numpy as np
import pytest
import torch

from rlserve.algorithms import registry
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.algorithms.masked import with_reference
from rlserve.batching.collate import BatchLayout, collate
from rlserve.batching.filters import why_drop
from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig, OrpoConfig
from rlserve.records import (
    FinishReason,
    Outcome,
    PolicySpan,
    RolloutGroup,
    Segment,
    SegmentKind,
    TeacherScores,
    Trajectory,
    Verdict,
)
from tests.support.groups import task

VOCABULARY, GOOD, LENGTH, GROUPS, SIZE = 6, 4, 3, 8, 8
LAYOUT = BatchLayout(tokens_per_micro_batch=64, max_new_tokens=LENGTH, packing=True)


def sample(distribution, teacher, generator, member):
    """Tokens after token 0; the reward is 1 when the last one is GOOD."""
    ids, logprobs = [0], []
    for _ in range(LENGTH):
        row = distribution[ids[-1]]
        ids.append(min(int(np.searchsorted(row.cumsum(), generator.random())), VOCABULARY - 1))
        logprobs.append(np.log(row[ids[-1]]))
    right = ids[-1] == GOOD
    return Trajectory(
        sample_index=member,
        token_ids=np.array(ids),
        segments=(Segment(kind=SegmentKind.GIVEN, length=1), Segment(kind=SegmentKind.SAMPLED, length=LENGTH)),
        behavior_logprobs=np.array(logprobs, dtype=np.float32),
        policy_spans=(PolicySpan(0, LENGTH),),
        finish_reason=FinishReason.STOP,
        verdict=Verdict(outcome=Outcome.PASS if right else Outcome.FAIL, reward=float(right)),
        teacher_scores=(scored(teacher, ids),),
    )


def scored(teacher, ids):
    rows = teacher[ids[:-1]]
    top = rows.topk(2, dim=-1)
    return TeacherScores(
        teacher="t",
        tokenizer_fingerprint="t",
        weights_digest="d",
        logprobs=rows.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].numpy(),
        top_ids=top.indices.numpy(),
        top_logprobs=top.values.numpy(),
        log_tail=torch.log1p(-top.values.exp().sum(-1)).numpy(),
    )


def step(algorithm, table, reference, groups):
    kept = [g for g in groups if why_drop(g, algorithm) is None]
    batch = collate(kept, algorithm, LAYOUT, version=0)
    micro_batches = [m for rank in batch.micro_batches for m in rank]
    if "reference_logprobs" in algorithm.needs:
        micro_batches = [
            type(m)(
                **{n: getattr(m, n) for n in m.__dataclass_fields__ if n != "reference_logprobs"},
                reference_logprobs=policy_outputs(reference[m.token_ids], m, needs=()).logprobs,
            )
            for m in micro_batches
        ]
    denominator = with_reference(batch.denominator, micro_batches)
    for micro in micro_batches:
        outputs = policy_outputs(table[micro.token_ids], micro, needs=algorithm.needs)
        algorithm.loss(outputs, micro, denominator).loss.backward()


def chance_of_right(table):
    """Exact, over all sequences."""
    moves = table.detach().softmax(-1)
    return float(torch.linalg.matrix_power(moves, LENGTH)[0, GOOD])


REWARDED = [
    GrpoConfig(),
    GrpoConfig(advantage="group_mean", averaging="constant", constant_length=LENGTH),
    GrpoConfig(kl={"coefficient": 0.01, "estimator": "k3_unbiased"}, entropy_coefficient=0.001),
    CispoConfig(),
    GspoConfig(),
    ReinforceConfig(),
    ReinforceConfig(advantage="running_baseline", zero_variance="keep"),
    ReinforceConfig(advantage="max_rl"),
    DpoConfig(),
    DpoConfig(loss="apo_zero", pairs={"selection": "best_worst"}),
    DpoConfig(loss="ipo", length_normalized=True),
    DpoConfig(loss="hinge"),
    OrpoConfig(coefficient=1.0),
    KtoConfig(),
]
TAUGHT = [
    DistillConfig(),
    DistillConfig(estimator="top_k", beta=0.0),
    DistillConfig(estimator="top_k", beta=0.5),
    DistillConfig(estimator="top_k", beta=1.0),
    MixedConfig(reward=GrpoConfig(), distill=DistillConfig(), distill_weight=0.1),
]


@pytest.mark.parametrize("config", REWARDED + TAUGHT, ids=lambda c: c.type)
def test_a_policy_learns_what_it_is_rewarded_or_taught_for(config):
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    table = (0.1 * torch.randn(VOCABULARY, VOCABULARY)).requires_grad_()
    reference, teacher = table.detach().clone(), torch.zeros(VOCABULARY, VOCABULARY)
    teacher[:, GOOD] = 4.0
    algorithm = registry.create(config)
    optimizer = torch.optim.Adam([table], lr=0.1)
    before = chance_of_right(table)
    teacher = teacher.log_softmax(-1)
    for number in range(25):
        distribution = table.detach().double().softmax(-1).numpy()
        groups = [
            RolloutGroup(
                group_id=f"{number}-{i}",
                task=task(i),
                trajectories=tuple(sample(distribution, teacher, generator, member) for member in range(SIZE)),
                worker_id="w",
            )
            for i in range(GROUPS)
        ]
        optimizer.zero_grad()
        step(algorithm, table, reference, groups)
        optimizer.step()
    assert before < 0.25
    assert chance_of_right(table) > 0.7, f"{before:.2f} -> {chance_of_right(table):.2f}"
