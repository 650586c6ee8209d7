"""From a micro-batch to the query for its tokens, and from their scores to the outputs that a loss reads.

Shape letters: B rows, T tokens, N tokens scored, V vocabulary, H size of a hidden state. A place is a token's index in
the flattened batch; the token at place p is predicted by the hidden state at p - 1.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from rlserve.algorithms.batch import PolicyOutputs, TokenBatch
from rlserve.algorithms.head import Head, Query
from rlserve.algorithms.token_scores import Scores, token_scores

OPTIONAL = ("entropy", "log_partition", "top_logprobs", "unshared_logprobs", "log_unshared")
"""Outputs beside the log-probabilities, in the order of ``Scores``."""


def policy_outputs(
    hidden: Tensor,
    batch: TokenBatch,
    *,
    needs: Collection[str] = ("entropy",),
    head: Head | None = None,
    unshared: Tensor | None = None,
) -> PolicyOutputs:
    """The outputs in ``needs`` at all tokens that have one before them, from hidden states ``[B, T, H]``.

    Without a head these are the logits ``[B, T, V]``. They are first divided by the temperature at which each token was
    sampled. The entropy has a gradient only when ``needs`` also holds ``"entropy_gradient"``. ``unshared`` ``[V]``
    bool: policy tokens missing from the teacher's vocabulary.
    """
    places = ((batch.position_ids > 0) & (batch.sequence_ids >= 0)).flatten().nonzero()[:, 0]
    scores = token_scores(
        hidden.flatten(0, 1)[places - 1], head or Head(), query_of(batch, places, needs=needs, unshared=unshared)
    )
    return outputs_of(scores, places, batch.token_ids.shape, needs=needs)


def query_of(batch: TokenBatch, places: Tensor, *, needs: Collection[str], unshared: Tensor | None = None) -> Query:
    """What to score at the N ``places``; on the device of the batch, where it reads values."""
    temperature = _flat(batch.temperatures, places)
    if temperature is not None and bool((temperature == 1).all()):
        temperature = None  # saves a pass over the logits
    top_ids = _flat(batch.teacher_top_ids, places) if "top_logprobs" in needs else None
    if top_ids is not None and top_ids.shape[-1] == 0:
        top_ids = None
    is_missing = unshared is not None and "unshared_logprobs" in needs and bool(unshared.any())
    return Query(
        ids=batch.token_ids.flatten()[places],
        temperature=None if temperature is None else temperature[:, None],
        # -1 marks tokens missing from the policy's vocabulary: token 0 is scored in their place, and masked later
        top_ids=None if top_ids is None else top_ids.clamp(min=0),
        top_temperature=None if _is_everywhere(temperature, batch.teacher_temperature) else batch.teacher_temperature,
        unshared=unshared if is_missing else None,
        entropy="entropy" in needs or "entropy_gradient" in needs,
        entropy_gradient="entropy_gradient" in needs,
        log_partition="log_partition" in needs,
    )


def outputs_of(scores: Scores, places: Tensor, shape: torch.Size, *, needs: Collection[str]) -> PolicyOutputs:
    """``[N, ...] -> [B, T, ...]`` each; 0 where there is no place."""
    rows, width = shape

    def spread(values: Tensor) -> Tensor:
        whole = values.new_zeros(rows * width, *values.shape[1:])
        return whole.index_copy(0, places, values).view(rows, width, *values.shape[1:])

    wanted = {*needs, *(("entropy",) if "entropy_gradient" in needs else ())}
    optional = {name: spread(values) for name, values in zip(OPTIONAL, scores[1:], strict=True) if name in wanted}
    return PolicyOutputs(logprobs=spread(scores[0]), **optional)


def _flat(values: Tensor | None, places: Tensor) -> Tensor | None:
    return None if values is None else values.flatten(0, 1)[places]


def _is_everywhere(temperature: Tensor | None, wanted: float) -> bool:
    """Whether all tokens were sampled at the temperature ``wanted``."""
    return wanted == 1 if temperature is None else bool((temperature == wanted).all())
