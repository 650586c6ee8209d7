"""Token log-probabilities and entropy from logits, in chunks of tokens.

Shape letters: B rows, T tokens, V vocabulary. Entry ``[b, t]`` of a result is about token t, so it is made
from the logits at t - 1. Softmax is in float32 (float64 if the logits are); a chunk beyond the first is
recomputed in the backward pass, so only the model's own logits stay in memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlserve.algorithms.batch import PolicyOutputs, TokenBatch


def policy_outputs(
    logits: Tensor,
    batch: TokenBatch,
    *,
    temperature: float = 1.0,
    needs: Sequence[str] = ("entropy",),
    chunk_tokens: int = 4096,
) -> PolicyOutputs:
    """The outputs in ``needs``, from ``logits`` ``[B, T, V]`` of ``batch``.

    Logits are divided by ``temperature`` first, as they were when the tokens were sampled. The entropy has a
    gradient only when ``needs`` also holds ``"entropy_gradient"``.
    """
    wants_entropy = "entropy" in needs or "entropy_gradient" in needs
    # The token that each position predicts; the last of a row predicts nothing and is cut off below.
    targets = batch.token_ids.roll(-1, dims=1).flatten()
    flat = torch.split(logits.flatten(0, 1), chunk_tokens)
    chunks = list(zip(flat, torch.split(targets, chunk_tokens), strict=True))
    parts = [
        _chunk(part, ids, temperature, wants_entropy, "entropy_gradient" in needs, len(chunks) > 1)
        for part, ids in chunks
    ]
    seen = (batch.position_ids > 0) & (batch.sequence_ids >= 0)
    logprobs = _about_own_token(torch.cat([p[0] for p in parts]), seen)
    entropy = _about_own_token(torch.cat([p[1] for p in parts]), seen) if wants_entropy else None
    return PolicyOutputs(logprobs=logprobs, entropy=entropy)


def _about_own_token(values: Tensor, seen: Tensor) -> Tensor:
    """``[B*T] -> [B, T]``: moved from the predicting to the predicted token, 0 where ``seen`` is False."""
    moved = values.view(seen.shape).roll(1, dims=1)
    return torch.where(seen, moved, torch.zeros_like(moved))


def _chunk(
    logits: Tensor, ids: Tensor, temperature: float, entropy: bool, entropy_gradient: bool, recompute: bool
) -> tuple[Tensor, Tensor]:
    if recompute and torch.is_grad_enabled():
        result: tuple[Tensor, Tensor] = checkpoint(
            _score, logits, ids, temperature, entropy, entropy_gradient, use_reentrant=False
        )
        return result
    return _score(logits, ids, temperature, entropy, entropy_gradient)


def _score(
    logits: Tensor, ids: Tensor, temperature: float, entropy: bool, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability of ``ids`` and entropy (zeros unless asked for), each ``[C]``."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    log_softmax = scaled.log_softmax(-1)
    logprobs = log_softmax.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    if not entropy:
        return logprobs, torch.zeros_like(logprobs)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        return logprobs, -(log_softmax.exp() * log_softmax).sum(-1)
