"""Verdict and Failure on the wire: a reward, or the reason for its absence, never both."""

import math

from rlserve.records import Failure, FailureKind, Outcome, Verdict
from rlserve.records.verdict import LARGEST_REWARD
from rlserve.rpc.codec.check import EnumCodec, fault, finite, finite_values, join, text, wire_text
from rlserve.v1 import failure_pb2, verdict_pb2

OUTCOME = EnumCodec(verdict_pb2.Outcome, "OUTCOME", Outcome)
FAILURE_KIND = EnumCodec(failure_pb2.FailureKind, "FAILURE_KIND", FailureKind)


def verdict_to_proto(verdict: Verdict) -> verdict_pb2.Verdict:
    """Encode a verdict."""
    return verdict_pb2.Verdict(
        reward=verdict.reward,
        parts=verdict.parts,
        reason=wire_text(verdict.reason),
        outcome=OUTCOME.encode(verdict.outcome),
        no_verdict=failure_to_proto(verdict.failure) if verdict.failure else None,
        verifier=verdict.verifier,
        seconds=verdict.seconds,
        passed=verdict.passed,
        total=verdict.total,
        isolation=verdict.isolation,
        output=wire_text(verdict.output),
    )


def verdict_from_proto(message: verdict_pb2.Verdict, at: str = "") -> Verdict:
    """Decode a verdict, checking every field; the reward is 0 with OUTCOME_NO_VERDICT. Raises InvalidRequest."""
    outcome = OUTCOME.decode(message.outcome, at, "outcome")
    failure = _failure(message, at, outcome)
    if message.passed > message.total:
        fault(at, "passed", f"is {message.passed} of {message.total} tests; at most all of them")
    return Verdict(
        outcome=outcome,
        # A reward beside a failure is ignored: training must not depend on what a failed verifier left in the field.
        reward=0.0 if failure else _reward(message.reward, at),
        parts=finite_values(message.parts, at, "parts") if message.parts else {},
        reason=message.reason,
        failure=failure,
        verifier=message.verifier,
        seconds=finite(message.seconds, at, "seconds", low=0),
        passed=message.passed,
        total=message.total,
        isolation=message.isolation,
        output=message.output,
    )


def failure_to_proto(failure: Failure) -> failure_pb2.Failure:
    """Encode a failure."""
    return failure_pb2.Failure(
        source=failure.source,
        kind=FAILURE_KIND.encode(failure.kind),
        message=wire_text(failure.message),
        retriable=failure.retriable,
    )


def failure_from_proto(message: failure_pb2.Failure, at: str = "") -> Failure:
    """Decode a failure, checking every field. Raises InvalidRequest."""
    return Failure(
        source=text(message.source, at, "source"),
        kind=FAILURE_KIND.decode(message.kind, at, "kind"),
        message=message.message,
        retriable=message.retriable,
    )


def _failure(message: verdict_pb2.Verdict, at: str, outcome: Outcome) -> Failure | None:
    given = message.HasField("no_verdict")
    if given != (outcome is Outcome.NO_VERDICT):
        problem = f"is set with outcome {outcome.value!r}" if given else "is unset with OUTCOME_NO_VERDICT"
        fault(at, "no_verdict", f"{problem}; set it with OUTCOME_NO_VERDICT and no other outcome")
    return failure_from_proto(message.no_verdict, join(at, "no_verdict")) if given else None


def _reward(value: float, at: str) -> float:
    if not math.isfinite(value):
        fault(at, "reward", f"is {value}; give a finite number, or OUTCOME_NO_VERDICT", "nan_reward")
    # A finite reward of 1e30 would pass every later check and destroy the weights in one step.
    if abs(value) > LARGEST_REWARD:
        limit = f"{LARGEST_REWARD:g}"
        fault(at, "reward", f"is {value:g}; give -{limit} to {limit}, or OUTCOME_NO_VERDICT", "absurd_reward")
    return value
