"""The verifier ``rubric``: several verifiers as one, by a weighted sum and gates that must be passed."""

import asyncio
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlserve import plugins
from rlserve.errors import InvalidRequest
from rlserve.records import Failure, FailureKind, Outcome, Verdict
from rlserve.verifiers.payloads import decode_object

FIELDS = {"name", "verifier", "weight", "gate", "least", "options", "payload"}
MAX_PARTS = 32
"""Each part becomes metrics; a rubric has a handful."""
UNKNOWN_PARTS_SECONDS = 60.0
"""Limit if tasks define their own parts, whose limits are not known in advance. Any value of this size will do: the
pool's own limit is lower."""
DEFAULT_PART_SECONDS = 5.0
"""Of a part without a limit of its own. Any value of this size will do: such verifiers take milliseconds."""
MAX_OUTPUT_CHARACTERS = 4000
"""Of all parts together, in a verdict. Any value of this size will do: it is stored with each rollout."""
MAX_REASON_CHARACTERS = 80
"""Of one part, in the verdict's reason. Any value of this size will do: a line for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One verifier of a rubric."""

    name: str
    """Name of the part in verdicts and metrics."""
    verifier: Any
    weight: float
    gate: bool
    """True: with a reward below ``least``, the whole reward is ``gate_reward``."""
    least: float
    payload: bytes | None
    """Fixed payload; None: the task's, under the part's name."""


class RubricVerifier:
    """Reward = sum of weight x reward over ``parts``; ``gate_reward`` if a gate is not passed.

    A part is ``{name, verifier, weight = 1, gate = false, least = 1, options = {}, payload = {...}}``; ``name``
    defaults to the verifier's. A part without a ``payload`` of its own gets ``payloads[name]`` of the task's payload,
    or, if the task has no ``payloads``, the task's whole payload. A gate with weight 0 adds nothing to the reward.
    Every part's reward is in the verdict's ``parts``, and so in the metrics; so are the parts' own parts, as
    ``name/part``.

    A task may define parts of its own, ``{"parts": [...], "payloads": {...}}``, without ``options``, which only the
    operator may set.

    With an async part (such as a judge) the rubric is async, too: many completions are in flight in one process, so the
    other parts should be quick.

    If a part has no verdict, neither has the rubric. A completion passes if every gate and every part with a positive
    weight pass; it is neither right nor wrong if such a part only scores.
    """

    name = "rubric"
    version = "1"
    description = "several verifiers as one: weighted sum and gates"

    def __init__(self, *, parts: Sequence[Mapping[str, Any]] = (), gate_reward: float = 0.0) -> None:
        if len(parts) > MAX_PARTS:
            raise InvalidRequest(f"options.parts: are {len(parts)}; give at most {MAX_PARTS}")
        self._parts = [_part(part, f"options.parts[{index}]") for index, part in enumerate(parts)]
        names = [part.name for part in self._parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidRequest(f"options.parts: {twice[0]!r} occurs twice; give each part a name of its own")
        self._gate_reward = gate_reward
        # The pool looks at ``verify`` once, at the start, to choose between a blocking and a waiting process.
        if any(_waits(part.verifier) for part in self._parts):
            self.verify = self._verify_waiting  # type: ignore[method-assign,assignment]

    @property
    def reward_range(self) -> tuple[float, float]:
        """Range that follows from the parts' ranges and weights."""
        low = high = 0.0
        for part in self._parts:
            ends = [part.weight * end for end in getattr(part.verifier, "reward_range", (0.0, 1.0))]
            low, high = low + min(ends), high + max(ends)
        if any(part.gate for part in self._parts):
            # A closed gate replaces the sum, which may lie on either side of it.
            low, high = min(low, self._gate_reward), max(high, self._gate_reward)
        return low, high

    @property
    def isolation(self) -> str:
        """Isolation of the part that runs untrusted code, if any."""
        return next((tier for part in self._parts if (tier := getattr(part.verifier, "isolation", ""))), "")

    @property
    def limit_seconds(self) -> float:
        """Sum of the parts' own limits."""
        limits = [float(getattr(part.verifier, "limit_seconds", DEFAULT_PART_SECONDS)) for part in self._parts]
        return sum(limits) or UNKNOWN_PARTS_SECONDS

    @property
    def limits_itself(self) -> bool:
        """True if a part limits itself, or if tasks define their own parts, which are not known yet."""
        return not self._parts or any(getattr(part.verifier, "limits_itself", False) for part in self._parts)

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse with any options."""
        payloads, own = _of_task(payload)
        for part in _own_parts(own) if own else ():
            if (check := getattr(part.verifier, "check", None)) is not None:
                check(RubricVerifier._own(part, payloads, payload))

    def prepare(self) -> None:
        """Prepare every part that has ``prepare``."""
        for part in self._parts:
            if hasattr(part.verifier, "prepare"):
                part.verifier.prepare()

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Verify by every part. Raises InvalidRequest if a part's payload is missing."""
        parts, payloads = self._of(payload)
        verdicts = [part.verifier.verify(completion, self._own(part, payloads, payload), prompt) for part in parts]
        # A task's own parts may be async although this process is not; they run one after the other.
        found = [asyncio.run(verdict) if inspect.iscoroutine(verdict) else verdict for verdict in verdicts]
        return self._together(parts, found)

    async def _verify_waiting(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Like :meth:`verify`, with all async parts at the same time."""
        parts, payloads = self._of(payload)
        verdicts = [part.verifier.verify(completion, self._own(part, payloads, payload), prompt) for part in parts]
        waiting = [index for index, verdict in enumerate(verdicts) if inspect.iscoroutine(verdict)]
        answers = await asyncio.gather(*(verdicts[index] for index in waiting))
        for index, verdict in zip(waiting, answers, strict=True):
            verdicts[index] = verdict
        return self._together(parts, verdicts)

    async def close(self) -> None:
        """Close every part that has ``close``."""
        for part in self._parts:
            if _waits(part.verifier) and hasattr(part.verifier, "close"):
                await part.verifier.close()

    def _of(self, payload: bytes) -> tuple[Sequence[Part], Mapping[str, Any] | None]:
        """The parts to use, and the payloads by part."""
        payloads, own = _of_task(payload)
        parts = _own_parts(own) if own else self._parts
        if not parts:
            raise InvalidRequest("options.parts: is empty, and the payload has no parts; name the verifiers")
        return parts, payloads

    def _together(self, parts: Sequence[Part], verdicts: Sequence[Verdict]) -> Verdict:
        found = {part.name: verdict for part, verdict in zip(parts, verdicts, strict=True)}
        missing = [name for name, verdict in found.items() if not verdict.has_reward]
        # Never a sum over the rest: the reward would be on another scale than that of its group.
        if missing:
            return self._none(missing[0], found[missing[0]])
        return self._combined(parts, found)

    @staticmethod
    def _own(part: Part, payloads: Mapping[str, Any] | None, whole: bytes) -> bytes:
        if part.payload is not None:
            return part.payload
        if payloads is None:
            return whole
        if part.name not in payloads:
            raise InvalidRequest(f"payload.payloads.{part.name}: is missing; the rubric's part {part.name!r} needs it")
        return json.dumps(payloads[part.name]).encode()

    def _combined(self, rubric: Sequence[Part], found: Mapping[str, Verdict]) -> Verdict:
        # The reward, not the outcome: a part with partial credit may be gated at any level.
        closed = [p.name for p in rubric if p.gate and found[p.name].reward < p.least]
        total = sum(part.weight * found[part.name].reward for part in rubric)
        outcomes = {found[p.name].outcome for p in rubric if p.weight > 0}
        parts = {name: verdict.reward for name, verdict in found.items()}
        parts |= {f"{name}/{part}": value for name, verdict in found.items() for part, value in verdict.parts.items()}
        story = "; ".join(
            f"{name} {verdict.reward:g} ({verdict.reason[:MAX_REASON_CHARACTERS]})" for name, verdict in found.items()
        )
        counted = [verdict for verdict in found.values() if verdict.total]
        return Verdict(
            outcome=_outcome(outcomes, is_closed=bool(closed)),
            reward=self._gate_reward if closed else total,
            parts=parts,
            reason=(f"gate {closed[0]!r} is closed; " if closed else "") + story,
            verifier=self.name,
            passed=sum(verdict.passed for verdict in counted),
            total=sum(verdict.total for verdict in counted),
            isolation=next((verdict.isolation for verdict in found.values() if verdict.isolation), ""),
            output="\n".join(verdict.output for verdict in found.values() if verdict.output)[:MAX_OUTPUT_CHARACTERS],
        )

    def _none(self, name: str, verdict: Verdict) -> Verdict:
        why = verdict.failure.message if verdict.failure else verdict.reason
        kind = verdict.failure.kind if verdict.failure else FailureKind.INTERNAL
        retriable = verdict.failure.retriable if verdict.failure else False
        return Verdict.none(
            Failure(source=f"verifier:{self.name}", kind=kind, message=f"part {name!r}: {why}", retriable=retriable)
        )


def _outcome(outcomes: Collection[Outcome], *, is_closed: bool) -> Outcome:
    if Outcome.SCORED in outcomes:
        return Outcome.SCORED
    return Outcome.FAIL if is_closed or set(outcomes) - {Outcome.PASS} else Outcome.PASS


def _waits(verifier: Any) -> bool:
    return inspect.iscoroutinefunction(verifier.verify)


def _of_task(payload: bytes) -> tuple[Mapping[str, Any] | None, str]:
    """The payloads by part (None if all parts share the task's payload), and the task's own parts as JSON."""
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        return None, ""  # a part may take a payload that is no JSON, and refuses it itself when it does not
    if not isinstance(content, dict) or not {"payloads", "parts"} & set(content):
        return None, ""
    content = decode_object(payload, fields=("payloads", "parts"))
    payloads = content.get("payloads", {})
    if not isinstance(payloads, dict):
        raise InvalidRequest("payload.payloads: is not an object; send a payload for each part, by name")
    return payloads, json.dumps(content["parts"]) if "parts" in content else ""


@lru_cache(maxsize=64)
def _own_parts(parts_json: str) -> tuple[Part, ...]:
    """The task's own parts. Raises InvalidRequest."""
    # Cached by their JSON: a part may import a library, and all completions of a group bring the same parts.
    parts = json.loads(parts_json)
    if not isinstance(parts, list) or not 0 < len(parts) <= MAX_PARTS:
        raise InvalidRequest(f"payload.parts: is not a list of 1 to {MAX_PARTS} parts")
    # Options may name files and servers, and a task may come from a stranger's server.
    if any(isinstance(part, dict) and part.get("options") for part in parts):
        raise InvalidRequest("payload.parts: has options; set them in verifier.options.rubric")
    made = tuple(_part(part, f"payload.parts[{index}]") for index, part in enumerate(parts))
    if len({part.name for part in made}) < len(made):
        raise InvalidRequest("payload.parts: names one twice; give each part a name of its own")
    return made


def _part(part: Any, where: str) -> Part:
    if not isinstance(part, Mapping) or not isinstance(part.get("verifier"), str):
        raise InvalidRequest(f"{where}.verifier: is missing; name a registered verifier")
    if unknown := sorted(set(part) - FIELDS):
        raise InvalidRequest(f"{where}.{unknown[0]}: is unknown (known: {', '.join(sorted(FIELDS))})")
    kind = part["verifier"]
    if kind == RubricVerifier.name:
        raise InvalidRequest(f"{where}.verifier: is a rubric; put its parts here instead")
    weight, least = (_number(part.get(field, 1.0), f"{where}.{field}") for field in ("weight", "least"))
    return Part(
        name=str(part.get("name", kind)),
        verifier=plugins.load(plugins.VERIFIER_GROUP, kind)(**part.get("options", {})),
        weight=weight,
        # `is True`: a text such as "false" would be a true value.
        gate=part.get("gate", False) is True,
        least=least,
        payload=json.dumps(part["payload"]).encode() if "payload" in part else None,
    )


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise InvalidRequest(f"{where}: is {str(value)[:40]!a}; give a finite number")
    return float(value)
