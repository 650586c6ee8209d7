"""vLLM's completion to ``Sample``: tokens, log-probabilities, and the version that sampled each token."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rlserve.errors import StateCorrupt, Unavailable
from rlserve.records import FinishReason, PolicySpan, Sample


class VersionSpan(Protocol):
    """vLLM's run of output tokens ``[start, end)`` sampled under the weights labelled ``version``."""

    version: str
    start: int
    end: int


def to_sample(completion: Any, *, seconds: float) -> Sample:
    """A finished ``vllm.CompletionOutput`` as a Sample. Raises Unavailable when vLLM dropped the request."""
    token_ids = np.asarray(completion.token_ids, dtype=np.int64)
    return Sample(
        token_ids=token_ids,
        logprobs=sampled_logprobs(completion.logprobs, len(token_ids)),
        policy_spans=policy_spans(completion.weight_versions or (), len(token_ids)),
        finish_reason=finish_reason(completion.finish_reason),
        seconds=seconds,
    )


def sampled_logprobs(flat: Any, length: int) -> npt.NDArray[np.float32]:
    """Log-probability of each sampled token from vLLM's ``FlatLogprobs`` with at least one entry per position.

    The sampled token comes first at its position.
    """
    if length == 0:
        return np.zeros(0, dtype=np.float32)
    if len(flat.start_indices) != length:
        raise StateCorrupt(f"logprobs: {len(flat.start_indices)} positions for {length} sampled tokens")
    return np.asarray([flat.logprobs[i] for i in flat.start_indices], dtype=np.float32)


def policy_spans(spans: Sequence[VersionSpan], length: int) -> tuple[PolicySpan, ...]:
    """vLLM's spans as records. Raises StateCorrupt unless they cover ``length`` tokens without gap or overlap.

    Example: ``("7", 0, 2), ("8", 2, 3)`` of 3 tokens becomes ``(7, 2), (8, 1)``.
    """
    covered = 0
    for span in spans:
        if span.start != covered or span.end < span.start:
            raise StateCorrupt(f"weight_versions: span {span} does not continue at token {covered}")
        covered = span.end
    if covered != length:
        raise StateCorrupt(f"weight_versions: cover {covered} of {length} sampled tokens")
    return tuple(PolicySpan(int(s.version), s.end - s.start) for s in spans if s.end > s.start)


def finish_reason(reason: str | None) -> FinishReason:
    """vLLM's reason as a FinishReason. Raises Unavailable for any other one."""
    match reason:
        case "stop" | "length" | "abort":
            return FinishReason(reason)
        case _:
            raise Unavailable(f"engine: ended a request with {reason!r}; send it again")
