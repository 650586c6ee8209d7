"""The rewards of a ``verifiers`` task for one completion."""

import json
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.records import Verdict
from rlserve_prime.rewards import judged
from rlserve_prime.tasksets import tasks_of


class PrimeVerifier:
    """Runs the task's own ``@reward`` and ``@metric`` functions over a trace of prompt and completion.

    The reward is the library's weighted sum; each reward and metric is a part of the verdict. A sum of at least
    ``pass_at`` is right, if it is set. Rewards that need a container of the library's own are not run; a task with only
    such rewards has no verdict.
    """

    name = "prime"
    version = "1"
    description = "the own rewards of a taskset of the verifiers library"
    reward_range = (-1e6, 1e6)

    def __init__(self, *, pass_at: float | None = None) -> None:
        self._pass_at = pass_at

    def prepare(self) -> None:
        """Import the library before the first completion arrives."""
        import verifiers.v1  # noqa: F401

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Verify one completion. Raises InvalidRequest for a malformed payload, Unavailable if scoring fails."""
        from verifiers import v1 as vf

        task = _task(payload)
        # A completion may hold lone surrogates, which pydantic refuses in a message.
        text = completion.encode("utf-8", "replace").decode()
        return judged(task, [vf.AssistantMessage(content=text)], pass_at=self._pass_at)


def _task(payload: bytes) -> Any:
    try:
        content = json.loads(payload)
        taskset, options, place = str(content["taskset"]), dict(content["options"]), content["idx"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest("payload: is not one of this adapter's; send taskset, options and idx") from error
    tasks = tasks_of(taskset, options)
    # type(), not isinstance: True is an int. Negative indices would count from the end.
    if type(place) is not int or not 0 <= place < len(tasks):
        raise InvalidRequest(f"payload.idx: is {str(place)[:40]!a}; {taskset!r} has {len(tasks)} tasks")
    return tasks[place]
