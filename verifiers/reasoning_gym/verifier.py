"""The verifier ``reasoning_gym``: scores answers by the scorers of the reasoning-gym data sets."""

from collections.abc import Mapping
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.sandbox.walls.plain import NotPlain, decode_plain
from rlserve.verifiers.payloads import decode_object, flag
from rlserve.verifiers.reasoning import answer_of, tagged_answer
from rlserve.verifiers.reasoning_gym.scorers import score

MAX_ANSWER_CHARACTERS = 10_000
"""Any value of this size will do: the longest answers of the library are grids of some thousand characters."""


class ReasoningGymVerifier:
    """Rewards with the score of the task's data set; partial credit where it gives some.

    With ``tags`` in the payload the answer is the content of the last ``<answer>`` tags, else the whole text, both
    without thoughts (``<think>...</think>``).
    """

    name = "reasoning_gym"
    version = "1"
    description = "reasoning-gym's own scorers; answers are never evaluated as Python"
    reward_range = (0.0, 1.0)
    limit_seconds = 5.0
    """Most scorers take milliseconds; sympy may take long on a formula that no person would write."""
    timeout_is_failure = True
    """Without a verdict the policy could learn to avoid a 0 by formulas that are slow to compare."""

    def prepare(self) -> None:
        """Import the library while no completion waits. Raises ModuleNotFoundError without it."""
        from rlserve.verifiers.reasoning_gym import scorers

        scorers._library()

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        _task(payload)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one answer. Raises InvalidRequest for an invalid payload."""
        task, options, entry, tags = _task(payload)
        answer = _answer(completion, prompt, tags=tags)
        if answer is None:
            return self._verdict(0.0, "no <answer> tags")
        if len(answer) > MAX_ANSWER_CHARACTERS:
            return self._verdict(0.0, f"the answer is longer than {MAX_ANSWER_CHARACTERS} characters")
        return self._verdict(score(task, options, answer, entry), f"found {answer[:60]!a}")

    def _verdict(self, reward: float, reason: str) -> Verdict:
        return Verdict(
            outcome=Outcome.PASS if reward >= 1.0 else Outcome.FAIL,
            reward=reward,
            parts={"score": reward},
            reason=reason,
            verifier=self.name,
        )


def _task(payload: bytes) -> tuple[str, Mapping[str, Any], Mapping[str, Any], bool]:
    """Return data set, its options, the entry, and whether the answer stands in tags. Raises InvalidRequest."""
    content = decode_object(payload, fields=("task", "options", "entry", "tags"))
    task, options = content.get("task"), content.get("options", {})
    if not isinstance(task, str) or not isinstance(options, dict):
        raise InvalidRequest("payload.task, payload.options: send the data set's name and an object")
    return task, options, _entry(content.get("entry")), flag(content, "tags")


def _entry(data: Any) -> Mapping[str, Any]:
    try:
        entry = decode_plain(data)
    except NotPlain as error:
        raise InvalidRequest(f"payload.entry: is no entry: {error}") from error
    if not isinstance(entry, dict) or "question" not in entry or "answer" not in entry:
        raise InvalidRequest("payload.entry: is no entry of reasoning-gym; send one as its environment does")
    return entry


def _answer(completion: str, prompt: str, *, tags: bool) -> str | None:
    return tagged_answer(completion, prompt) if tags else answer_of(completion, prompt).strip()
