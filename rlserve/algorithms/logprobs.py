"""Token log-probabilities, entropy and log-partition from logits, in chunks of tokens.

Shape letters: B rows, T tokens, V vocabulary, C tokens of a chunk. Entry ``[b, t]`` of a result is about
token t, so it is made from the logits at t - 1. Softmax is in float32 (float64 if the logits are); of more
than one chunk, each is recomputed in the backward pass, so only the model's own logits stay in memory.
"""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlserve.algorithms.batch import PolicyOutputs, TokenBatch


def policy_outputs(
    logits: Tensor,
    batch: TokenBatch,
    *,
    temperature: float = 1.0,
    needs: Collection[str] = ("entropy",),
    chunk_tokens: int = 4096,
) -> PolicyOutputs:
    """The outputs in ``needs``, from ``logits`` ``[B, T, V]`` of ``batch``.

    Logits are divided by ``temperature`` first, as they were when the tokens were sampled. The entropy has a
    gradient only when ``needs`` also holds ``"entropy_gradient"``.
    """
    wanted = frozenset(needs) | ({"entropy"} if "entropy_gradient" in needs else set())
    # The token that each position predicts; the last of a row predicts nothing and is cut off below.
    targets = batch.token_ids.roll(-1, dims=1).flatten()
    flat = torch.split(logits.flatten(0, 1), chunk_tokens)
    chunks = list(zip(flat, torch.split(targets, chunk_tokens), strict=True))
    parts = [_chunk(part, ids, temperature, wanted, len(chunks) > 1) for part, ids in chunks]
    seen = (batch.position_ids > 0) & (batch.sequence_ids >= 0)
    logprobs, entropy, log_partition = (
        _about_own_token(torch.cat([part[i] for part in parts]), seen) for i in range(3)
    )
    return PolicyOutputs(
        logprobs=logprobs,
        entropy=entropy if "entropy" in wanted else None,
        log_partition=log_partition if "log_partition" in wanted else None,
    )


def _about_own_token(values: Tensor, seen: Tensor) -> Tensor:
    """``[B*T] -> [B, T]``: moved from the predicting to the predicted token, 0 where ``seen`` is False."""
    moved = values.view(seen.shape).roll(1, dims=1)
    return torch.where(seen, moved, torch.zeros_like(moved))


def _chunk(
    logits: Tensor, ids: Tensor, temperature: float, wanted: frozenset[str], recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if recompute and torch.is_grad_enabled():
        result: tuple[Tensor, Tensor, Tensor] = checkpoint(
            _score, logits, ids, temperature, wanted, use_reentrant=False
        )
        return result
    return _score(logits, ids, temperature, wanted)


def _score(logits: Tensor, ids: Tensor, temperature: float, wanted: frozenset[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of ``ids``, entropy and log-partition (zeros unless wanted), each ``[C]``."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_softmax = (exact / temperature).log_softmax(-1)
    logprobs = log_softmax.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    entropy = log_partition = torch.zeros_like(logprobs)
    if "log_partition" in wanted:
        log_partition = exact.logsumexp(-1)
    if "entropy" in wanted:
        with torch.set_grad_enabled("entropy_gradient" in wanted and torch.is_grad_enabled()):
            entropy = -(log_softmax.exp() * log_softmax).sum(-1)
    return logprobs, entropy, log_partition
