"""The served form across tokenizers against the one on whole vocabularies, which is checked against TRL's GOLD."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.actors.rollout.teachers import tops_of_spans
from rlserve.algorithms import registry
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.batching.collate import BatchLayout, collate
from rlserve.config.algorithms.distillation import DistillConfig
from rlserve.records import TeacherScores
from rlserve.tokens.alignment import align, span_scores
from tests.oracles import uld
from tests.support.groups import group

V, W = 7, 6
PROMPT = 3
LAYOUT = BatchLayout(tokens_per_micro_batch=1000, max_new_tokens=50)


def served(logprobs: torch.Tensor, tokens: torch.Tensor, k: int) -> TeacherScores:
    """What a server sends of a distribution ``[U, W]`` and its realised tokens ``[U]``."""
    top = logprobs.topk(k, dim=-1)
    tail = logprobs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    return TeacherScores(
        teacher="t",
        tokenizer_fingerprint="other",
        weights_digest="d",
        logprobs=logprobs.gather(-1, tokens[:, None])[:, 0].numpy(),
        top_ids=top.indices.numpy(),
        top_logprobs=top.values.numpy(),
        log_tail=tail.numpy(),
    )


def distilled(
    logits: torch.Tensor, student_ids: Any, scores: TeacherScores, config: DistillConfig, unshared: torch.Tensor | None
) -> torch.Tensor:
    """The loss of one sequence through the real batch, with the student's logits ``[S, V]`` put in."""
    algorithm = registry.create(config)
    one = group([1.0], [len(student_ids)])
    (trajectory,) = one.trajectories
    ids = np.concatenate([np.zeros(PROMPT, dtype=np.int64), student_ids])
    scored = replace(one, trajectories=(replace(trajectory, token_ids=ids, teacher_scores=(scores,)),))
    batch = collate([scored], algorithm, LAYOUT, version=0)
    (micro,) = batch.micro_batches[0]
    whole = torch.zeros(1, len(ids), V, dtype=torch.float64)
    whole[0, PROMPT - 1 : -1] = logits
    outputs = policy_outputs(whole, micro, needs=algorithm.needs, unshared=unshared)
    return algorithm.loss(outputs, micro, batch.denominator).loss


def aligned_scores(spans: Any, scores: TeacherScores, shared: Any, num_tokens: int) -> TeacherScores:
    """As the worker lays them on the policy's tokens."""
    laid = span_scores(spans, scores.logprobs.tolist(), num_tokens)
    lengths = np.array([s.student_stop - s.student_start for s in spans])
    tops = tops_of_spans(spans, scores, shared, num_tokens)
    return replace(scores, logprobs=laid.logprobs, span_lengths=lengths, **tops)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), shared=st.integers(0, 5), beta=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_with_the_whole_vocabulary_it_is_the_form_of_gold(seed: int, shared: int, beta: float) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(5, V, dtype=torch.float64, requires_grad=True)
    same = logits.detach().clone().requires_grad_()
    teacher = torch.randn(4, W, dtype=torch.float64).log_softmax(-1)
    student_ids, teacher_ids = torch.randint(0, V, (5,)), torch.randint(0, W, (4,))
    spans = align([1, 3, 4, 6, 9], [3, 4, 8, 9])
    mapping = np.array([(t + 2) % V if t < shared else -1 for t in range(W)])
    unshared = torch.ones(V, dtype=torch.bool)
    unshared[torch.from_numpy(mapping[mapping >= 0])] = False

    scores = aligned_scores(spans, served(teacher, teacher_ids, W), mapping, 5)
    config = DistillConfig(estimator="top_k", beta=beta, k=W, normalize=False)
    ours = distilled(logits, student_ids.numpy(), scores, config, unshared)

    merged = [
        uld.merge_spans(same.softmax(-1), student_ids, [(s.student_start, s.student_stop) for s in spans]),
        uld.merge_spans(teacher.exp(), teacher_ids, [(s.teacher_start, s.teacher_stop) for s in spans]),
    ]
    pairs = uld.Vocabularies(
        student_ids=torch.from_numpy(mapping[mapping >= 0]), teacher_ids=torch.from_numpy(np.flatnonzero(mapping >= 0))
    )
    expected = uld.hybrid_loss(*merged, pairs, beta=beta) if shared else uld.rank_distance(*merged)
    # Scores travel in float32.
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    ours.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, same.grad, atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, V), beta=st.sampled_from([0.0, 0.5, 1.0]))
def test_with_one_tokenizer_on_both_sides_it_is_the_loss_without_spans(seed: int, k: int, beta: float) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(5, V, dtype=torch.float64)
    teacher = torch.randn(5, V, dtype=torch.float64).log_softmax(-1)
    ids = torch.randint(0, V, (5,))
    plain = served(teacher, ids, k)
    ends = [1, 2, 3, 4, 5]
    spanned = aligned_scores(align(ends, ends), plain, np.arange(V), 5)
    config = DistillConfig(estimator="top_k", beta=beta, k=k)
    nothing = torch.zeros(V, dtype=torch.bool)
    expected = distilled(logits, ids.numpy(), plain, config, None)
    assert float(distilled(logits, ids.numpy(), spanned, config, nothing)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_small_k_sees_no_more_than_all_of_it_and_stays_differentiable(beta: float) -> None:
    torch.manual_seed(0)
    teacher, ids = torch.randn(5, W, dtype=torch.float64).log_softmax(-1), torch.randint(0, W, (5,))
    mapping = np.array([2, 3, 4, -1, -1, -1])
    unshared = torch.tensor([1, 1, 0, 0, 0, 1, 1], dtype=torch.bool)
    ends = [1, 2, 3, 4, 5]
    found = []
    for k in (1, 3, W):
        logits = torch.randn(5, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        scores = aligned_scores(align(ends, ends), served(teacher, ids, k), mapping, 5)
        config = DistillConfig(estimator="top_k", beta=beta, k=k)
        loss = distilled(logits, np.array([0, 1, 2, 3, 4]), scores, config, unshared)
        loss.backward()
        assert torch.isfinite(logits.grad).all()
        found.append(float(loss.detach()))
    assert all(np.isfinite(found))
