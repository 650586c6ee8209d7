"""Distributions compared across tokenizers: merged over aligned spans, matched by token, the rest by rank.

After GOLD (Hugging Face, 2025) and ULD (arXiv:2402.12030), with the whole vocabularies of both sides at hand;
against a served teacher use ``distill`` with spans, which needs realised tokens only.
Shape letters: S tokens of one side, G spans, V and W the vocabularies of student and teacher, M matched pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlserve.algorithms.divergences import generalized_jsd

SMALLEST = 1e-8
"""Probabilities are raised to this before they enter a product or a logarithm."""


@dataclass(frozen=True, slots=True, eq=False)
class Vocabularies:
    """Which tokens of two vocabularies are the same; ``[M]`` each, entry i of one is entry i of the other."""

    student_ids: Tensor
    teacher_ids: Tensor


def merge_spans(probabilities: Tensor, token_ids: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """``[S, V] -> [G, V]``: by the chain rule, the last token's distribution times the earlier tokens' probability.

    Row k of ``probabilities`` predicts ``token_ids[k]`` ``[S]``. A merged row of several tokens does not sum to
    1: it holds the joint probability of the realised beginning and each possible end.
    """
    realised = probabilities.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1).clamp(min=SMALLEST)
    rows = [probabilities[stop - 1] * realised[start : stop - 1].prod() for start, stop in spans]
    return torch.stack(rows) if rows else probabilities[:0]


def hybrid_loss(student: Tensor, teacher: Tensor, vocabularies: Vocabularies, *, beta: float = 0.5) -> Tensor:
    """Mean over spans of the matched tokens' divergence and the others' rank-wise distance, ``-> []``.

    ``student`` ``[G, V]`` and ``teacher`` ``[G, W]`` are merged. Weighted by the share of the teacher's
    vocabulary that is matched. With one vocabulary on both sides and spans of one token this is
    ``generalized_jsd``.
    """
    matched = vocabularies.teacher_ids.numel() / teacher.shape[-1]
    q = student[:, vocabularies.student_ids].clamp(min=SMALLEST).log()
    p = teacher[:, vocabularies.teacher_ids].clamp(min=SMALLEST).log()
    same = generalized_jsd(q, p, beta).mean()
    rest = rank_distance(_without(student, vocabularies.student_ids), _without(teacher, vocabularies.teacher_ids))
    return matched * same + (1 - matched) * rest


def rank_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of the L1 distance of sorted rows, the shorter padded with zeros (ULD); blind to identity."""
    width = max(student.shape[-1], teacher.shape[-1])
    left, right = (
        pad(side.sort(dim=-1, descending=True).values, (0, width - side.shape[-1])) for side in (student, teacher)
    )
    return (left - right).abs().sum() / max(student.shape[0], 1)


def _without(side: Tensor, ids: Tensor) -> Tensor:
    keep = torch.ones(side.shape[-1], dtype=torch.bool, device=side.device)
    keep[ids] = False
    return side[:, keep]
