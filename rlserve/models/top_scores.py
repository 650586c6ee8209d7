"""Scores that a teacher gives tokens: log-probability, top k, mass outside of it; whole logits are never held.

Shape letters: N tokens, H size of a hidden state, K entries of the top, C tokens of a chunk, V vocabulary.
"""

import torch
from torch import Tensor

from rlserve.algorithms.head import Head

TopScores = tuple[Tensor, Tensor, Tensor, Tensor]
"""Log-probabilities ``[N]``, ids of the top ``[N, K]``, their log-probabilities ``[N, K]``, log of the mass outside the
top ``[N]``, in host memory."""


@torch.no_grad()
def top_scores(
    hidden: Tensor, head: Head, ids: Tensor, *, k: int, temperature: float, num_tokens: int | None = None
) -> TopScores:
    """Scores of ``ids`` ``[N]`` from the hidden states ``[N, H]`` that predict them; softmax in float32.

    The top is of the first ``num_tokens`` columns: further ones are padding of the embedding.
    """
    parts = [
        _of_chunk(head.logits(hidden[rows]) / temperature, ids[rows], k, num_tokens) for rows in head.chunks(hidden)
    ]
    if not parts:  # no token: results without rows, from no logits
        nothing = hidden.new_zeros(0, head.vocabulary(hidden), dtype=torch.float32)
        parts = [_of_chunk(nothing, ids, k, num_tokens)]
    logprobs, top_ids, top, rest = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    return logprobs, top_ids, top, rest


def _of_chunk(logits: Tensor, ids: Tensor, k: int, num_tokens: int | None) -> TopScores:
    log_softmax = logits.log_softmax(-1)
    own = log_softmax.gather(-1, ids[:, None])[:, 0]
    # Not normalised again: what the padding of the embedding holds belongs to the tail.
    known = log_softmax[:, :num_tokens]
    top = known.topk(min(k, known.shape[-1]), dim=-1)
    if not k:
        return own, top.indices, top.values, own
    # Summed over the rest: where the top k holds nearly all mass, 1 - sum(top) would be rounding error alone.
    return own, top.indices, top.values, log_softmax.scatter_(-1, top.indices, -torch.inf).logsumexp(-1)
