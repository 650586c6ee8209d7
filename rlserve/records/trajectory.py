"""Samples, trajectories (one attempt at a task, token by token), and the group of trajectories of one task.

Shape letters: T tokens of the trajectory, S sampled tokens among them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

import numpy as np
import numpy.typing as npt

from rlserve.records.task import Purpose, Task
from rlserve.records.verdict import Verdict


class SegmentKind(StrEnum):
    """Writer of a run of tokens."""

    GIVEN = "given"
    """Prompt and template."""
    SAMPLED = "sampled"
    """The policy: trained on."""
    ENVIRONMENT = "environment"
    """The environment or a tool, between turns: masked from the loss."""


class FinishReason(StrEnum):
    """Why sampling ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ENVIRONMENT = "environment"
    GIVEN = "given"
    """The completion came with the task. The policy that wrote it is unknown, so its behaviour log-probabilities are 0
    and mean nothing."""


class PreferenceRole(StrEnum):
    """Role in an offline preference pair."""

    NONE = "none"
    CHOSEN = "chosen"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens by one writer."""

    kind: SegmentKind
    length: int
    turn: int = 0


@dataclass(frozen=True, slots=True)
class PolicySpan:
    """A run of sampled tokens under one policy version."""

    version: int
    length: int


# eq=False here and below: a generated comparison would ask numpy for the truth of an array, which raises.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherScores:
    """A teacher's log-probabilities; entry i predicts the i-th scored (sampled) token."""

    teacher: str
    tokenizer_fingerprint: str
    weights_digest: str
    logprobs: npt.NDArray[np.float32]
    """``[S]`` log-probability of each sampled token."""
    top_ids: npt.NDArray[np.int64]
    """``[S, k]`` ids of the policy's vocabulary, -1 for tokens it lacks; k may be 0."""
    top_logprobs: npt.NDArray[np.float32]
    """``[S, k]``."""
    log_tail: npt.NDArray[np.float32]
    """``[S]`` log(1 - sum of the top k); empty when k is 0."""
    temperature: float = 1.0
    span_lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Number of policy tokens in each span, only when the tokenizers differ; see ``rlserve.tokens.alignment``. The
    teacher's log-probability of a span is at its first token, 0 at the others; tokens after the last span have no
    score. The top k of a span is at its last token: joint log-probabilities of its beginning and each possible end."""
    shared_fraction: float = 1.0
    """Share of the teacher's vocabulary that the policy shares; 1 when the tokenizers are the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectiveWeights:
    """A weight for each token under one objective."""

    objective: str
    weights: npt.NDArray[np.float32]
    """``[T]``, or ``[1]`` for one weight on all sampled tokens."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One completion as an engine returns it."""

    token_ids: npt.NDArray[np.int64]
    """``[S]``."""
    logprobs: npt.NDArray[np.float32]
    """``[S]`` natural log, under the weights that sampled, after temperature and top_p."""
    policy_spans: tuple[PolicySpan, ...]
    """Cover the S tokens exactly."""
    finish_reason: FinishReason
    seconds: float
    """Wall seconds from submission to the last token, waiting included."""

    @classmethod
    def given(cls, token_ids: Sequence[int], *, version: int) -> Self:
        """A completion that came with its task, in place of a sampled one; ``version`` is the one served now."""
        return cls(
            token_ids=np.array(token_ids, dtype=np.int64),
            logprobs=np.zeros(len(token_ids), dtype=np.float32),
            policy_spans=(PolicySpan(version, len(token_ids)),),
            finish_reason=FinishReason.GIVEN,
            seconds=0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """One attempt at a task.

    Example, a prompt P, two sampled answers A and an environment turn E::

        token_ids          P0 P1 A0 A1 E0 A2
        segments           GIVEN 2, SAMPLED 2, ENVIRONMENT 1, SAMPLED 1
        behavior_logprobs  a0 a1 a2
        policy_spans       (7, 2) (8, 1)

    A worker makes it in two steps, first the tokens, then the verdict::

        trajectory = Trajectory.single_turn([5, 6], sample, index=0, temperature=1.0, top_p=1.0, seed=7)
        judged = trajectory.judged(verdict, completion="42", started=t0, finished=t1, verification_seconds=0.1)
    """

    sample_index: int
    token_ids: npt.NDArray[np.int64]
    """``[T]``."""
    segments: tuple[Segment, ...]
    """Cover ``token_ids`` exactly."""
    behavior_logprobs: npt.NDArray[np.float32]
    """``[S]`` natural log, under the weights that sampled, after temperature."""
    policy_spans: tuple[PolicySpan, ...]
    """Cover the S sampled tokens exactly; versions never decrease."""
    finish_reason: FinishReason
    verdict: Verdict | None = None
    teacher_scores: tuple[TeacherScores, ...] = ()
    objective_weights: tuple[ObjectiveWeights, ...] = ()
    completion: str = ""
    """Decoded sampled text, for people and verifiers; never re-tokenised."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    started_unix_seconds: float = 0.0
    finished_unix_seconds: float = 0.0
    preference_role: PreferenceRole = PreferenceRole.NONE
    pair_index: int = 0
    generation_seconds: float = 0.0
    verification_seconds: float = 0.0

    @classmethod
    def single_turn(
        cls,
        prompt: Sequence[int],
        sample: Sample,
        *,
        index: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Self:
        """A prompt and one completion, without a verdict. A ``Transcript`` makes that of several turns."""
        return cls(
            sample_index=index,
            token_ids=np.concatenate([np.asarray(prompt, dtype=np.int64), sample.token_ids]),
            segments=(
                Segment(kind=SegmentKind.GIVEN, length=len(prompt)),
                Segment(kind=SegmentKind.SAMPLED, length=len(sample.token_ids)),
            ),
            behavior_logprobs=sample.logprobs,
            policy_spans=sample.policy_spans,
            finish_reason=sample.finish_reason,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            generation_seconds=sample.seconds,
        )

    def judged(
        self,
        verdict: Verdict | None,
        *,
        completion: str,
        started: float,
        finished: float,
        verification_seconds: float = 0.0,
    ) -> Self:
        """A copy with text, verdict, and the times when work on it began and ended (unix seconds)."""
        return replace(
            self,
            verdict=verdict,
            completion=completion,
            started_unix_seconds=started,
            finished_unix_seconds=finished,
            verification_seconds=verification_seconds,
        )

    @property
    def num_sampled(self) -> int:
        """S, the number of sampled tokens."""
        return len(self.behavior_logprobs)

    @property
    def sampled_mask(self) -> npt.NDArray[np.bool_]:
        """``[T]`` True where the policy sampled the token."""
        parts = [np.full(s.length, s.kind is SegmentKind.SAMPLED) for s in self.segments]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)

    @property
    def versions(self) -> npt.NDArray[np.int64]:
        """``[S]`` policy version of each sampled token."""
        return np.repeat(
            np.array([s.version for s in self.policy_spans], dtype=np.int64),
            [s.length for s in self.policy_spans],
        )

    @property
    def scored_temperature(self) -> float:
        """Temperature of ``behavior_logprobs``: 1 for greedy sampling."""
        return self.temperature or 1.0

    @property
    def oldest_version(self) -> int:
        """Version of the first sampled token; the lag bound applies to it."""
        return self.policy_spans[0].version if self.policy_spans else 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutGroup:
    """The trajectories of one task: sent, acknowledged, counted and trained on as one."""

    group_id: str
    """Equal when the same work is sent twice."""
    task: Task
    trajectories: tuple[Trajectory, ...]
    worker_id: str
    tokenizer_fingerprint: str = ""
    run_id: str = ""
    purpose: Purpose = Purpose.TRAIN

    @property
    def oldest_version(self) -> int:
        """Oldest version that sampled any token of the group."""
        return min((t.oldest_version for t in self.trajectories), default=0)

    def scored(self) -> Iterator[Trajectory]:
        """Trajectories that have a reward."""
        return (t for t in self.trajectories if t.verdict is not None and t.verdict.has_reward)
