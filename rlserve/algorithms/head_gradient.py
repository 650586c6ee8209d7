"""The gradient of token scores by hidden states and head, from logits that are computed again.

Shape letters as in ``head``; J = 1 + K + R tokens listed for a token: itself, its top ids, its likeliest unshared ones.

It goes block by block of the vocabulary, because the weight's gradient must be summed over the chunks of tokens in
float32 (in bfloat16 the sum over many chunks would lose the small ones), and in float32 over the whole vocabulary it
would be larger than all else here. What a token's gradient is made of fits into a few numbers a token (``Pulls``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlserve.algorithms.head import ROUND_TO, Head, Query, compiled, rounded, rows_of, slices, squeezed

BYTES, COMPILED_BYTES = 16, 6
"""Of an element of a block: the logit, its gradient and three float32 copies; compiled none."""
COLUMNS = 2**14
"""Of a block. Narrow, so that a chunk has thousands of tokens: each chunk passes over all float32 sums of the weight's
gradient once more. Not narrower, since each block rounds the hidden states' gradient once more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Results of the forward pass, and what their gradient needs beside them."""

    logprobs: Tensor
    log_sum: Tensor
    """``[N]`` logsumexp at the token's temperature."""
    entropy: Tensor
    log_partition: Tensor
    top: Tensor
    top_log_sum: Tensor
    """``[N]`` logsumexp at the temperature of the top ids."""
    unshared: Tensor
    unshared_ids: Tensor
    """``[N, R]``."""
    log_unshared: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Pulls:
    """What the gradient by a token's logits is made of, ``[N, 1]`` each; None is 0."""

    log_sum: Tensor
    away: Tensor | None
    """Down on all tokens by their probability."""
    entropy: Tensor | None
    entropy_value: Tensor
    partition: Tensor | None
    partition_value: Tensor
    top_log_sum: Tensor
    top_away: Tensor | None
    """As ``away``, at the temperature of the top ids."""
    missing: Tensor | None
    """Up on unshared tokens by their share of the unshared mass."""
    missing_log_sum: Tensor
    listed_ids: Tensor
    """``[N, J]``."""
    listed: Tensor
    """``[N, J]``: up on these tokens."""


def pulls_of(query: Query, known: Known, slopes: Sequence[Tensor | None]) -> Pulls:
    """From the loss's gradient by the scores, in the order of ``token_scores``; None is 0."""
    own, entropy, partition, top, unshared, log_unshared = (
        None if s is None else s[:, None] if s.dim() == 1 else s for s in slopes
    )
    towards = torch.zeros_like(known.logprobs)[:, None] if own is None else own
    listed, listed_ids, top_away = [_cooled(towards, query.temperature)], [query.ids[:, None]], None
    if query.top_ids is not None:
        given = [(top, query.top_ids), (unshared, known.unshared_ids)]
        further = [pull for pull, _ in given if pull is not None]
        listed += [_cooled(pull, query.at) for pull in further]
        listed_ids += [ids for pull, ids in given if pull is not None]
        sums = [pull.sum(-1, keepdim=True) for pull in further] + ([] if log_unshared is None else [log_unshared])
        top_away = torch.stack(sums).sum(0) if sums else None
    return Pulls(
        log_sum=known.log_sum[:, None],
        away=own,
        entropy=entropy if query.entropy_gradient else None,
        entropy_value=known.entropy[:, None],
        partition=partition if query.log_partition else None,
        partition_value=known.log_partition[:, None],
        top_log_sum=known.top_log_sum[:, None],
        top_away=top_away,
        missing=log_unshared if query.top_ids is not None and query.unshared is not None else None,
        missing_log_sum=known.log_unshared[:, None],
        listed_ids=torch.cat(listed_ids, -1),
        listed=torch.cat(listed, -1),
    )


def gradients(
    head: Head, hidden: Tensor, kept: Tensor | None, query: Query, pulls: Pulls, *, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """By hidden states ``[N, H]``, weight ``[V, H]`` and bias ``[V]``, those that are ``wanted``.

    ``kept``: the raw logits ``[N, V]``, where they are small enough to be still there.
    """
    assert head.weight is not None
    weight, bias = head.weight, head.bias
    for_hidden = torch.empty_like(hidden) if wanted[0] else None
    for_weight = weight.new_empty(weight.shape) if wanted[1] else None
    for_bias = bias.new_empty(bias.shape) if wanted[2] and bias is not None else None
    for block in _blocks(head, hidden):
        width = block.stop - block.start
        sums = None if for_weight is None else _room(for_weight[block], len(hidden))
        bias_sums = hidden.new_zeros(width, dtype=_summing(weight))
        for rows in _chunks(head, hidden, width):
            raw = head.raw(hidden[rows], block) if kept is None else kept[rows, block]
            by_logits = _by_logits(head, raw, block, rows_of(query, rows), rows_of(pulls, rows))  # [C, W]
            if for_hidden is not None:
                # beta 0: the first product replaces what is in fresh memory
                for_hidden[rows].addmm_(by_logits, weight[block], beta=min(block.start, 1))
            if sums is not None:
                _add_product(sums, by_logits, hidden[rows], is_first=rows.start == 0)
            if for_bias is not None:
                bias_sums += by_logits.sum(0, dtype=bias_sums.dtype)
        if for_weight is not None and sums is not None and sums.dtype != for_weight.dtype:
            for_weight[block] = sums
        if for_bias is not None:
            for_bias[block] = bias_sums
    return for_hidden, for_weight, for_bias


def logit_gradient(head: Head, logits: Tensor, query: Query, pulls: Pulls) -> Tensor:
    """``[N, V]``, where the hidden states are the logits."""
    found = torch.empty_like(logits)
    for rows in head.chunks(logits):
        whole = slice(0, logits.shape[-1])
        found[rows] = _by_logits(head, logits[rows], whole, rows_of(query, rows), rows_of(pulls, rows))
    return found


def _blocks(head: Head, hidden: Tensor) -> Sequence[slice]:
    """Blocks of the vocabulary of equal size, whose float32 sums take at most half of the memory."""
    assert head.weight is not None
    vocabulary = len(head.weight)
    most = max(1, min(COLUMNS, head.work_bytes // (2 * _summing(head.weight).itemsize * hidden.shape[-1])))
    size = -(-vocabulary // -(-vocabulary // most))
    return list(slices(vocabulary, size if size < ROUND_TO else -(-size // ROUND_TO) * ROUND_TO))


def _chunks(head: Head, hidden: Tensor, width: int) -> Iterator[slice]:
    """Chunks of tokens whose logits in a block of ``width`` columns fit into the memory."""
    return slices(len(hidden), rounded(head.work_bytes // ((COMPILED_BYTES if head.compiled else BYTES) * width)))


def _summing(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _room(block: Tensor, tokens: int) -> Tensor:
    """Where the sums of a block are made: in the block itself where it is precise enough."""
    if not tokens:
        return block.zero_()
    summing = _summing(block)
    return block if block.dtype == summing else block.new_empty(block.shape, dtype=summing)


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, is_first: bool) -> None:
    """``total += left' right``, or ``=`` for the first, without rounding to less than the type of ``total``."""
    if left.dtype != total.dtype and left.is_cuda:
        product = torch.mm(left.t(), right, out_dtype=total.dtype)
        total.copy_(product) if is_first else total.add_(product)
    else:  # torch has no product into another type on CPU
        total.addmm_(left.t().to(total.dtype), right.to(total.dtype), beta=int(not is_first))


def _by_logits(head: Head, raw: Tensor, block: slice, query: Query, pulls: Pulls) -> Tensor:
    """``[C, W]``: the loss's gradient by the raw logits of a block, in their type."""
    slope = compiled(_slope) if head.compiled else _slope
    mask = None if query.unshared is None else query.unshared[block]
    gradient = slope(raw, mask, query.temperature, query.at, pulls, head.scale, head.softcap, None)
    # Listed tokens are computed apart and written over what is there: for a likely token the pull up and the pull down
    # nearly cancel, which a sum of two bfloat16 numbers would not survive.
    columns = pulls.listed_ids - block.start  # [C, J]
    inside = (columns >= 0) & (columns < raw.shape[-1])
    columns = columns.clamp(0, raw.shape[-1] - 1)  # one outside stands for a column inside, and pulls at nothing
    up = torch.where(inside, pulls.listed, torch.zeros_like(pulls.listed))
    if columns.shape[-1] > 1:
        # A token that is listed twice gets both pulls; so do columns at which two of them stand.
        same = columns[:, :, None] == columns[:, None, :]  # [C, J, J]
        up = (same * up[:, None, :]).sum(-1)
    mask = None if mask is None else mask[columns]
    listed = _slope(raw.gather(-1, columns), mask, query.temperature, query.at, pulls, head.scale, head.softcap, up)
    return gradient.scatter_(-1, columns, listed)


def _slope(
    raw: Tensor,
    unshared: Tensor | None,
    temperature: Tensor | None,
    top_temperature: Tensor | float | None,
    pulls: Pulls,
    scale: float,
    softcap: float | None,
    up: Tensor | None,
) -> Tensor:
    """Elementwise, the gradient by ``raw`` of all but the listed pulls, to which ``up`` is added where given."""
    # In place where the tensor was made here: on a CPU fresh memory costs more than the arithmetic.
    logits = squeezed(raw, scale, softcap)
    total = up
    if pulls.away is not None or pulls.entropy is not None:
        log_p = _cooled(logits, temperature) - pulls.log_sum
        pull = torch.zeros_like(pulls.log_sum) if pulls.away is None else -pulls.away
        if pulls.entropy is not None:
            pull = pull - pulls.entropy * (log_p + pulls.entropy_value)
        total = _sum(total, log_p.exp_().mul_(_cooled(pull, temperature)))
    if pulls.partition is not None:
        total = _sum(total, (logits - pulls.partition_value).exp_().mul_(pulls.partition))
    if pulls.top_away is not None:
        log_p = _cooled(logits, top_temperature) - pulls.top_log_sum
        pull = -pulls.top_away * log_p.exp()
        if pulls.missing is not None and unshared is not None:
            pull = pull + torch.where(unshared, pulls.missing * (log_p - pulls.missing_log_sum).exp(), 0.0)
        total = _sum(total, _cooled(pull, top_temperature))
    if total is None:
        total = torch.zeros_like(logits)
    if softcap is not None:
        total = total * (1 - (logits / softcap).square())
    return (total if scale == 1.0 else total * scale).to(raw.dtype)


def _sum(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def _cooled(values: Tensor, temperature: Tensor | float | None) -> Tensor:
    return values if temperature is None else values / temperature
