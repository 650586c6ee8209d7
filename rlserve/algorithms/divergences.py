"""Divergences between a student's and a teacher's distribution, over a vocabulary or a part of it.

Shape letters: K tokens of the support, J = K + 1 buckets with the tail. ``p`` is the teacher, ``q`` the
student; entries are log-probabilities, ``[..., J] -> [...]``. What a support leaves out must go into a tail
bucket: a renormalised or a partial sum over a small k sees next to nothing.
"""

import math

import torch
from torch import Tensor

ABSENT = -1e4
"""Log-probability of a bucket that does not exist; its exp is 0 in every precision."""
MOST = math.log1p(-1e-7)
"""Largest log of a support's total mass, so that its tail has a logarithm."""


def log_tail(logprobs: Tensor) -> Tensor:
    """log(1 - sum exp) of the support, ``[..., K] -> [...]``."""
    return torch.log(-torch.expm1(logprobs.logsumexp(-1).clamp(max=MOST)))


def buckets(student: Tensor, teacher: Tensor, teacher_tail: Tensor) -> tuple[Tensor, Tensor]:
    """Both with a tail bucket, ``[..., K] -> [..., J]``.

    A teacher entry of -infinity is no part of the support: the student's mass there counts as tail. A teacher
    tail of -infinity says that the support is the whole vocabulary: there is no tail bucket on either side.
    """
    here = torch.isfinite(teacher)
    student = torch.where(here, student, ABSENT)
    has_tail = torch.isfinite(teacher_tail)
    student_tail = torch.where(has_tail, log_tail(student), ABSENT)
    p = torch.cat([torch.where(here, teacher, ABSENT), torch.where(has_tail, teacher_tail, ABSENT)[..., None]], -1)
    return torch.cat([student, student_tail[..., None]], -1), p


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second), summed over the last dimension."""
    return (first.exp() * (first - second)).sum(-1)


def generalized_jsd(student: Tensor, teacher: Tensor, beta: float, *, normalize: bool = False) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD, arXiv:2306.13649).

    At beta 0 the forward KL(p || q), at beta 1 the reverse KL(q || p). Between them the divergence goes to 0 at
    both ends; with ``normalize`` it is divided by beta (1 - beta), and is then continuous in beta.
    """
    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    value = beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)
    return value / (beta * (1 - beta)) if normalize else value
