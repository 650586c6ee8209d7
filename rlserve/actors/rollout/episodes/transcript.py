"""Token bookkeeping of one episode. Shape letters: T tokens, S sampled tokens among them.

Sampled tokens are appended as the engine returned them and never encoded again: text to tokens is not unique.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rlserve.records import FinishReason, PolicySpan, Sample, Segment, SegmentKind, Trajectory


class Transcript:
    """Tokens in order, their writers, and the log-probabilities and versions of the sampled ones.

    Example, a prompt P, two samples A and an environment turn E: tokens ``P0 P1 A0 A1 E0 A2``, segments GIVEN 2
    (turn 0), SAMPLED 2 (turn 0), ENVIRONMENT 1 (turn 0), SAMPLED 1 (turn 1).
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._ids = list(prompt)
        self._segments = [Segment(kind=SegmentKind.GIVEN, length=len(self._ids))]
        self._logprobs: list[npt.NDArray[np.float32]] = []
        self._spans: list[PolicySpan] = []
        self.num_samples = 0
        """Turns of the policy so far."""
        self.num_sampled = 0
        """S."""
        self.generation_seconds = 0.0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def context(self) -> list[int]:
        """All tokens so far, for the next generation."""
        # A copy: later turns are appended to the original while an engine may hold this.
        return list(self._ids)

    @property
    def token_ids(self) -> npt.NDArray[np.int64]:
        """``[T]``."""
        return np.asarray(self._ids, dtype=np.int64)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Cover the T tokens; none is empty."""
        return tuple(self._segments)

    @property
    def behavior_logprobs(self) -> npt.NDArray[np.float32]:
        """``[S]``."""
        # The empty array: concatenate refuses an empty list.
        return np.concatenate([np.zeros(0, dtype=np.float32), *self._logprobs])

    @property
    def policy_spans(self) -> tuple[PolicySpan, ...]:
        """Cover the S sampled tokens; neighbours have different versions."""
        return tuple(self._spans)

    def add_sample(self, sample: Sample) -> None:
        """The policy's next turn."""
        self._append(SegmentKind.SAMPLED, sample.token_ids.tolist(), turn=self.num_samples)
        self._logprobs.append(sample.logprobs)
        for span in sample.policy_spans:
            self._add_span(span)
        self.num_samples += 1
        self.num_sampled += len(sample.token_ids)
        self.generation_seconds += sample.seconds

    def add_environment(self, ids: Sequence[int]) -> None:
        """The environment's tokens between two turns of the policy."""
        self._append(SegmentKind.ENVIRONMENT, ids, turn=self.num_samples - 1)

    def trajectory(
        self, finish_reason: FinishReason, *, index: int, temperature: float, top_p: float, seed: int
    ) -> Trajectory:
        """All turns as one trajectory, not judged."""
        return Trajectory(
            sample_index=index,
            token_ids=self.token_ids,
            segments=self.segments,
            behavior_logprobs=self.behavior_logprobs,
            policy_spans=self.policy_spans,
            finish_reason=finish_reason,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            generation_seconds=self.generation_seconds,
        )

    def _append(self, kind: SegmentKind, ids: Sequence[int], *, turn: int) -> None:
        self._ids += ids
        if ids:
            self._segments.append(Segment(kind=kind, length=len(ids), turn=turn))

    def _add_span(self, span: PolicySpan) -> None:
        # A turn may go on under the version that ended the one before; the record wants maximal runs.
        if self._spans and self._spans[-1].version == span.version:
            span = PolicySpan(span.version, self._spans.pop().length + span.length)
        self._spans.append(span)
