"""Token log-probabilities, entropy and log-partition from logits, in chunks of tokens.

Shape letters: B rows, T tokens, V vocabulary, C tokens of a chunk, K tokens of a teacher's support. Entry
``[b, t]`` of a result belongs to token t, so it is computed from the logits at t - 1. Softmax is in float32 (float64 if
the logits are). With more than one chunk, each is recomputed in the backward pass, so that only the model's own logits
stay in memory.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlserve.algorithms.batch import PolicyOutputs, TokenBatch


def policy_outputs(
    logits: Tensor,
    batch: TokenBatch,
    *,
    needs: Collection[str] = ("entropy",),
    chunk_tokens: int = 4096,
    unshared: Tensor | None = None,
) -> PolicyOutputs:
    """The outputs in ``needs``, from ``logits`` ``[B, T, V]`` of ``batch``.

    Logits are first divided by the temperature at which each token was sampled. The entropy has a gradient only when
    ``needs`` also holds ``"entropy_gradient"``. ``unshared`` ``[V]`` bool: policy tokens missing from the teacher's
    vocabulary.
    """
    seen = (batch.position_ids > 0) & (batch.sequence_ids >= 0)
    settings = _Settings(
        top_temperature=None if _is_everywhere(batch, seen, batch.teacher_temperature) else batch.teacher_temperature,
        wanted=frozenset(needs) | ({"entropy"} if "entropy_gradient" in needs else set()),
        unshared=unshared if "unshared_logprobs" in needs else None,
    )
    # Rolled left, so that each position holds the token that it predicts; the last of a row predicts nothing and is
    # zeroed by _about_own_token.
    # [B, T, V] -> pieces [C, V]
    flat = torch.split(logits.flatten(0, 1), chunk_tokens)
    targets = torch.split(batch.token_ids.roll(-1, dims=1).flatten(), chunk_tokens)
    tops = torch.split(_top_ids(batch, settings.wanted), chunk_tokens)
    temperatures = (
        [None] * len(flat) if batch.temperatures is None else _predicted(batch.temperatures).split(chunk_tokens)
    )
    # A single chunk is kept for the backward pass: it is small, and recomputing it would cost time for nothing.
    recompute = len(flat) > 1 and torch.is_grad_enabled()
    parts = [_chunk(*chunk, settings, recompute) for chunk in zip(flat, targets, tops, temperatures, strict=True)]
    outputs = {
        name: _about_own_token(torch.cat([part[i] for part in parts]), seen)
        for i, name in enumerate(("logprobs", *OPTIONAL))
        if name == "logprobs" or name in settings.wanted
    }
    return PolicyOutputs(**outputs)


OPTIONAL = ("entropy", "log_partition", "top_logprobs", "unshared_logprobs", "log_unshared")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    top_temperature: float | None
    """Temperature of ``top_ids``; None: that of the tokens themselves."""
    wanted: frozenset[str]
    unshared: Tensor | None = None


_Scores = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _top_ids(batch: TokenBatch, wanted: frozenset[str]) -> Tensor:
    """``[B*T, K]`` tokens to score at each predicting position; K is 0 unless wanted."""
    if "top_logprobs" not in wanted or batch.teacher_top_ids is None:
        return batch.token_ids.new_zeros(batch.token_ids.numel(), 0)
    # -1 marks tokens missing from the policy's vocabulary: token 0 is gathered in their place, and masked later
    return batch.teacher_top_ids.clamp(min=0).roll(-1, dims=1).flatten(0, 1)


def _about_own_token(values: Tensor, seen: Tensor) -> Tensor:
    """``[B*T, ...] -> [B, T, ...]``: moved from the predicting to the predicted token, 0 where not ``seen``."""
    # roll carries the last position of a row to its first, whose token nothing predicts; `seen` is false there.
    moved = values.view(*seen.shape, *values.shape[1:]).roll(1, dims=1)
    return torch.where(seen.view(*seen.shape, *(1,) * (moved.dim() - 2)), moved, torch.zeros_like(moved))


def _is_everywhere(batch: TokenBatch, seen: Tensor, temperature: float) -> bool:
    """Whether all ``seen`` tokens were sampled at this temperature."""
    if batch.temperatures is None:
        return temperature == 1
    return bool((batch.temperatures[seen] == temperature).all())


def _predicted(values: Tensor) -> Tensor:
    """``[B, T] -> [B*T, 1]``: the value of the token that each position predicts."""
    return values.roll(-1, dims=1).reshape(-1, 1)


def _chunk(
    logits: Tensor, ids: Tensor, top_ids: Tensor, temperature: Tensor | None, settings: _Settings, recompute: bool
) -> _Scores:
    if not recompute:
        return _score(logits, ids, top_ids, temperature, settings)
    # use_reentrant=False is the form that torch recommends; the other one supports no torch.autograd.grad.
    result: _Scores = checkpoint(_score, logits, ids, top_ids, temperature, settings, use_reentrant=False)
    return result


def _score(logits: Tensor, ids: Tensor, top_ids: Tensor, temperature: Tensor | None, settings: _Settings) -> _Scores:
    """Log-probabilities of ``ids`` ``[C]``, entropy and log-partition (zeros unless wanted), those of ``top_ids``
    ``[C, K]``, and the unshared tokens' (``PolicyOutputs``). ``temperature`` ``[C, 1]``; None: 1.
    """
    wanted = settings.wanted
    # bfloat16 has 3 digits: ratios of probabilities computed in it would be noise
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_softmax = (exact if temperature is None else exact / temperature).log_softmax(-1)
    logprobs = log_softmax.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    entropy = log_partition = torch.zeros_like(logprobs)
    if "log_partition" in wanted:
        # [C]; before the temperature, since it is the size of the model's own logits that should not drift.
        log_partition = exact.logsumexp(-1)
    if "entropy" in wanted:
        # As a metric it needs no graph, which would keep another [C, V] in memory.
        with torch.set_grad_enabled("entropy_gradient" in wanted and torch.is_grad_enabled()):
            entropy = -(log_softmax.exp() * log_softmax).sum(-1)
    none, nothing = logprobs.new_zeros(len(ids), 0), torch.full_like(logprobs, -torch.inf)
    if top_ids.shape[-1] == 0:
        return logprobs, entropy, log_partition, none, none, nothing
    if settings.top_temperature is not None:
        # Computed again only where the teacher's temperature is not the sampling one.
        log_softmax = (exact / settings.top_temperature).log_softmax(-1)
    top = log_softmax.gather(-1, top_ids)
    if settings.unshared is None or not settings.unshared.any():
        return logprobs, entropy, log_partition, top, none, nothing
    # [C, unshared]
    others = log_softmax[:, settings.unshared]
    most = others.topk(min(top_ids.shape[-1], others.shape[-1]), dim=-1).values
    return logprobs, entropy, log_partition, top, most, others.logsumexp(-1)
