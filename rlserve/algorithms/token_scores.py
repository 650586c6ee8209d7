"""Scores of tokens from the hidden states that predict them, in which ``[N, V]`` is never held.

Shape letters as in ``head``; R unshared tokens listed. Forward, chunks of tokens meet the whole vocabulary. Backward,
the logits are computed again (``head_gradient``). Memory beside inputs, results and their gradients is bounded by
``Head.work_bytes``, whatever N is.
"""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from rlserve.algorithms.head import Head, Query, compiled, exact, rows_of, squeezed
from rlserve.algorithms.head_gradient import Known, gradients, logit_gradient, pulls_of

Scores = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Log-probabilities ``[N]``, entropies ``[N]`` and log-partitions ``[N]`` (zeros unless asked for), log-probabilities
of the top ids ``[N, K]``, of the likeliest unshared tokens ``[N, R]``, log of the mass of all unshared ``[N]``."""


def token_scores(hidden: Tensor, head: Head, query: Query) -> Scores:
    """The scores of N tokens from the hidden states ``[N, H]`` that predict them, in float32 (float64 if these are).

    Example, the log-probabilities of a model's completions::

        head = Head(weight=model.lm_head.weight)
        logprobs, *_ = token_scores(hidden, head, Query(ids=completion_ids))
        (-logprobs.mean()).backward()
    """
    scores: Scores = _TokenScores.apply(hidden, head.weight, head.bias, head, query)  # type: ignore[no-untyped-call]
    return scores


class _TokenScores(torch.autograd.Function):
    """Weight and bias are arguments beside the head, so that autograd sees them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, bias: Tensor | None, head: Head, query: Query
    ) -> Scores:
        head = replace(head, weight=weight, bias=bias)
        chunks = list(head.chunks(hidden)) or [slice(0, 0)]
        kept = None
        parts = []
        for rows in chunks:
            raw = head.raw(hidden[rows])
            parts.append(_score(head, raw, rows_of(query, rows)))
            # A single chunk is small: keeping its logits costs less than computing them again.
            kept = raw if len(chunks) == 1 and weight is not None and any(ctx.needs_input_grad) else None
        known = _joined(parts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, bias, kept)
        # Without tensors that autograd saved above, and apart from the results, which point back to ctx.
        ctx.head, ctx.query = replace(head, weight=None, bias=None), query
        ctx.known = replace(known, **{f.name: getattr(known, f.name).detach() for f in fields(known)})
        if not query.entropy_gradient:
            ctx.mark_non_differentiable(known.entropy)
        return known.logprobs, known.entropy, known.log_partition, known.top, known.unshared, known.log_unshared

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Any:
        hidden, weight, bias, kept = ctx.saved_tensors
        head = replace(ctx.head, weight=weight, bias=bias)
        pulls = pulls_of(ctx.query, ctx.known, slopes)
        if weight is None:
            return logit_gradient(head, hidden, ctx.query, pulls), None, None, None, None
        return *gradients(head, hidden, kept, ctx.query, pulls, wanted=ctx.needs_input_grad[:3]), None, None


def _score(head: Head, raw: Tensor, query: Query) -> Known:
    logits = raw if head.scale == 1.0 and head.softcap is None else squeezed(raw, head.scale, head.softcap)
    softmax = compiled(_softmax) if head.compiled else _softmax
    logprobs, log_sum, entropy = softmax(logits, query.ids, query.temperature, query.entropy)
    nothing, none = torch.zeros_like(logprobs), logprobs.new_zeros(len(logprobs), 0)
    known = Known(
        logprobs=logprobs,
        log_sum=log_sum,
        entropy=nothing if entropy is None else entropy,
        # Before the temperature, since it is the size of the model's own logits that should not drift.
        log_partition=exact(logits).logsumexp(-1) if query.log_partition else nothing.clone(),
        top=none,
        top_log_sum=log_sum,
        unshared=none.clone(),
        unshared_ids=query.ids.new_zeros(len(logprobs), 0),
        log_unshared=torch.full_like(logprobs, -torch.inf),
    )
    return known if query.top_ids is None else _with_top(known, logits, query)


def _softmax(
    logits: Tensor, ids: Tensor, temperature: Tensor | None, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``[C]`` each, at the temperature: log-probability of ``ids``, logsumexp, entropy."""
    if temperature is None:
        log_softmax = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        own = exact(logits.gather(-1, ids[:, None]))
    else:
        log_softmax = (exact(logits) / temperature).log_softmax(-1)
        own = exact(logits.gather(-1, ids[:, None])) / temperature
    logprobs = log_softmax.gather(-1, ids[:, None])
    entropy = -log_softmax.exp().mul_(log_softmax).sum(-1) if with_entropy else None
    return logprobs[:, 0], (own - logprobs)[:, 0], entropy


def _with_top(known: Known, logits: Tensor, query: Query) -> Known:
    """With the scores of the top ids and of the unshared tokens."""
    assert query.top_ids is not None
    log_softmax = (exact(logits) if query.at is None else exact(logits) / query.at).log_softmax(-1)
    known = replace(known, top=log_softmax.gather(-1, query.top_ids))
    if query.top_temperature is not None:
        own = exact(logits.gather(-1, query.ids[:, None])) / query.top_temperature
        known = replace(known, top_log_sum=(own - log_softmax.gather(-1, query.ids[:, None]))[:, 0])
    if query.unshared is None:
        return known
    columns = query.unshared.nonzero()[:, 0]
    others = log_softmax[:, columns]  # [C, unshared]
    most = others.topk(min(query.top_ids.shape[-1], others.shape[-1]), dim=-1)
    return replace(known, unshared=most.values, unshared_ids=columns[most.indices], log_unshared=others.logsumexp(-1))


def _joined(parts: list[Known]) -> Known:
    if len(parts) == 1:
        return parts[0]
    return Known(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Known)})
