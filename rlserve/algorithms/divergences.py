"""Divergences between a student's and a teacher's distribution, over a vocabulary, a part of it, or aligned spans.

``p`` is the teacher, ``q`` the student; entries are log-probabilities, ``[..., J] -> [...]``. What a support leaves
out must go into a tail bucket: a renormalised or a partial sum over a small k sees next to nothing.

With another tokenizer (``span_divergence``) the form is that of GOLD (Hugging Face, 2025; ULD, arXiv:2402.12030) on
what a server sends, its top k. A span's distribution is that of its last token times the probability of its beginning,
on both sides. With M of the teacher's W tokens in the student's vocabulary too, a span's loss is

    M/W * divergence(shared tokens, and a tail) + (1 - M/W) * L1 distance of the others, each side sorted.

With k = W there is no tail, and this is the loss on whole vocabularies; with one tokenizer on both sides every token is
a span and shared, and it is the loss of ``buckets``. With smaller k all of the teacher's unlisted mass counts as
shared, and the sorted others end with those that are listed: both terms see less of the difference.

Shape letters: B rows, T tokens, K tokens of the support, J = K + 1 buckets with the tail, R of the student's unshared
tokens.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlserve.algorithms.batch import PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import sequence_sum, spread
from rlserve.errors import InvalidRequest

ABSENT = -1e4
"""Log-probability of a bucket that does not exist: its exp is 0 in every precision, and unlike -infinity it has
gradients."""
MOST = math.log1p(-1e-7)
"""Largest log of a support's total mass: beyond it 1 - mass rounds to 0 in float32, which has no logarithm."""


def log_tail(logprobs: Tensor) -> Tensor:
    """log(1 - sum exp) of the support, ``[..., K] -> [...]``."""
    # log1p(-exp(x)) loses all digits near x = 0, where the support holds nearly everything; expm1 keeps them.
    return torch.log(-torch.expm1(logprobs.logsumexp(-1).clamp(max=MOST)))


def buckets(student: Tensor, teacher: Tensor, teacher_tail: Tensor) -> tuple[Tensor, Tensor]:
    """Both with a tail bucket, ``[..., K] -> [..., J]``.

    A teacher entry of -infinity is outside the support: the student's mass there counts as tail. With a teacher tail of
    -infinity the support is the whole vocabulary, and neither side has a tail bucket.
    """
    here = torch.isfinite(teacher)
    # ABSENT on both sides: such a bucket adds 0 to every divergence
    student = torch.where(here, student, ABSENT)
    has_tail = torch.isfinite(teacher_tail)
    student_tail = torch.where(has_tail, log_tail(student), ABSENT)
    p = torch.cat([torch.where(here, teacher, ABSENT), torch.where(has_tail, teacher_tail, ABSENT)[..., None]], -1)
    return torch.cat([student, student_tail[..., None]], -1), p


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second), summed over the last dimension."""
    # A bucket with ABSENT on both sides adds exp(-1e4) * 0 = 0.
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
    # in logarithms: the mixture of two tiny probabilities would underflow
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    value = beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)
    return value / (beta * (1 - beta)) if normalize else value


def over_spans(values: Tensor, batch: TokenBatch) -> Tensor:
    """``[B, T] -> [B, T]``: the sum over each token's span; the values themselves without spans."""
    if batch.span_ids is None:
        return values
    # Spans are summed as sequences are: both are numbers from 0, and -1 for what has none.
    return spread(sequence_sum(values, batch.span_ids, int(batch.span_ids.max()) + 1), batch.span_ids)


def span_divergence(
    outputs: PolicyOutputs, batch: TokenBatch, *, beta: float, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(``[B, T]`` loss at each span's last token; both sides' shared buckets, ``[B, T, J]``)."""
    teacher, tail, ids, share = (
        batch.teacher_top_logprobs,
        batch.teacher_log_tail,
        batch.teacher_top_ids,
        batch.shared_fraction,
    )
    if teacher is None or tail is None or ids is None or share is None or outputs.top_logprobs is None:
        raise InvalidRequest("teacher_top_logprobs: missing; ask the teacher for k > 0, or take estimator = 'sampled'")
    # At a span's last token: the log-probability of the tokens before it, to which its own distribution is joined.
    beginning = (over_spans(outputs.logprobs, batch) - outputs.logprobs)[..., None]
    listed = torch.isfinite(teacher)
    shared = listed & (ids >= 0)
    q = torch.where(shared, beginning + outputs.top_logprobs, ABSENT)
    p = torch.where(shared, teacher, ABSENT)
    has_tail = torch.isfinite(tail)
    # -infinity in the teacher's tail: its top k is the whole vocabulary, and nothing is left over.
    student_tail = torch.where(has_tail, beginning[..., 0] + _log_rest(outputs, shared, share), ABSENT)
    q = torch.cat([q, student_tail[..., None]], -1)
    p = torch.cat([p, torch.where(has_tail, tail, ABSENT)[..., None]], -1)
    # [B, T]; q and p are [B, T, J].
    same = generalized_jsd(q, p, beta, normalize=normalize)
    rest = _rank_distance(outputs, torch.where(listed & ~shared, teacher, ABSENT), beginning, is_whole=~has_tail)
    # share * same, not same alone: with M of W tokens shared each term has the weight of its part of the vocabulary.
    return share * same + (1 - share) * rest, q, p


def _log_rest(outputs: PolicyOutputs, shared: Tensor, share: Tensor) -> Tensor:
    """``[B, T]`` log of the student's mass on shared tokens outside the teacher's top."""
    assert outputs.top_logprobs is not None
    # [B, T] log of the student's mass on the shared tokens that the teacher listed.
    seen = torch.where(shared, outputs.top_logprobs, ABSENT).logsumexp(-1)
    if outputs.log_unshared is not None and outputs.unshared_logprobs is not None and outputs.unshared_logprobs.numel():
        # At share 1 the distance of unshared tokens has weight 0: the student's mass on them then stays in the tail, or
        # it would count nowhere.
        unshared = torch.where(share < 1, outputs.log_unshared, ABSENT)
        seen = torch.logaddexp(seen, unshared)
    return torch.log(-torch.expm1(seen.clamp(max=MOST)))


def _rank_distance(outputs: PolicyOutputs, teacher: Tensor, beginning: Tensor, is_whole: Tensor) -> Tensor:
    """``[B, T]``: L1 distance of both sides' unshared probabilities, largest first, the shorter side padded with 0.

    Where the teacher's side ``is_whole``, the student's mass beyond its R largest stands against zeros.
    """
    # Sorted, since tokens of the two vocabularies have no correspondence: only their ranks can be compared (ULD).
    theirs = teacher.exp().sort(dim=-1, descending=True).values
    ours = outputs.unshared_logprobs
    if ours is None or outputs.log_unshared is None or not ours.numel():
        return theirs.sum(-1)
    ours = (beginning + ours).exp()
    # [B, T]; rounding may leave a little less than the sum of the listed ones.
    beyond = ((beginning[..., 0] + outputs.log_unshared).exp() - ours.sum(-1)).clamp(min=0)
    width = max(ours.shape[-1], theirs.shape[-1])
    listed = (pad(ours, (0, width - ours.shape[-1])) - pad(theirs, (0, width - theirs.shape[-1]))).abs().sum(-1)
    return listed + torch.where(is_whole, beyond, torch.zeros_like(beyond))
