"""What a verifier says of a completion: a reward, or that there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LARGEST_REWARD = 1e9
"""Of either sign. Sums of squares of a batch stay far within float32."""


class Outcome(StrEnum):
    """How judging ended. Values after FAIL concern the judged program; NO_VERDICT the verifier."""

    PASS = "pass"
    FAIL = "fail"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    CRASH = "crash"
    REJECTED = "rejected"
    NO_VERDICT = "no_verdict"


class FailureKind(StrEnum):
    """Why something produced no result."""

    TIMEOUT = "timeout"
    CRASH = "crash"
    RESOURCE = "resource"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Who failed, how, and whether trying again makes sense."""

    source: str
    """Who, e.g. ``"verifier:math"``."""
    kind: FailureKind
    message: str
    """One line that a person can act on."""
    retriable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A verifier's judgement of one completion."""

    outcome: Outcome
    reward: float = 0.0
    """Scalar the algorithm sees; finite. Meaningless when ``outcome`` is NO_VERDICT."""
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
        """False when the verifier could not judge: the sample then teaches nothing."""
        return self.outcome is not Outcome.NO_VERDICT

    @classmethod
    def none(cls, failure: Failure, *, seconds: float = 0.0) -> "Verdict":
        """The verdict that says there is no verdict."""
        return cls(
            outcome=Outcome.NO_VERDICT,
            reason=failure.message,
            failure=failure,
            verifier=failure.source.removeprefix("verifier:"),
            seconds=seconds,
        )
