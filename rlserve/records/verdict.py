"""A verifier's judgement of a completion: a reward, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LARGEST_REWARD = 1e9
"""Bound on the absolute value: sums of squares over a batch stay far within float32."""


class Outcome(StrEnum):
    """How judging ended. Values after FAIL up to REJECTED concern the judged program; NO_VERDICT the verifier."""

    PASS = "pass"
    FAIL = "fail"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    CRASH = "crash"
    REJECTED = "rejected"
    NO_VERDICT = "no_verdict"
    SCORED = "scored"
    """A reward on a scale without a threshold from which it is right: it counts in no accuracy."""


class FailureKind(StrEnum):
    """Why there is no result."""

    TIMEOUT = "timeout"
    CRASH = "crash"
    RESOURCE = "resource"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Which part failed, how, and whether a retry makes sense."""

    source: str
    """The part that failed, e.g. ``"verifier:math"``."""
    kind: FailureKind
    message: str
    """One line that a person can act on."""
    retriable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A verifier's judgement of one completion."""

    outcome: Outcome
    reward: float = 0.0
    """Scalar for the algorithm; finite. Meaningless when ``outcome`` is NO_VERDICT."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named components, before weighting."""
    reason: str = ""
    """One line for people, e.g. ``"expected 42, found 41 (rule: number)"``."""
    failure: Failure | None = None
    """Set exactly when ``outcome`` is NO_VERDICT."""
    verifier: str = ""
    seconds: float = 0.0
    """Wall seconds spent judging."""
    passed: int = 0
    total: int = 0
    """Tests passed and run; 0 of 0 for verifiers that count none."""
    isolation: str = ""
    """Isolation tier that ran untrusted code; empty when none ran."""
    output: str = ""
    """What the judged program printed or raised, truncated."""

    @property
    def has_reward(self) -> bool:
        """False when the verifier could not judge: the sample is then not trained on."""
        return self.outcome is not Outcome.NO_VERDICT

    @classmethod
    def none(cls, failure: Failure, *, seconds: float = 0.0) -> "Verdict":
        """A "no verdict" with its failure."""
        return cls(
            outcome=Outcome.NO_VERDICT,
            reason=failure.message,
            failure=failure,
            verifier=failure.source.removeprefix("verifier:"),
            seconds=seconds,
        )


def outcome_of(reward: float, pass_at: float | None) -> Outcome:
    """PASS from ``pass_at`` on, else FAIL; without a threshold 1 is PASS, 0 is FAIL, and any other reward SCORED."""
    if pass_at is not None:
        return Outcome.PASS if reward >= pass_at else Outcome.FAIL
    return {1.0: Outcome.PASS, 0.0: Outcome.FAIL}.get(reward, Outcome.SCORED)
