"""The rewards of a ``verifiers`` task for one completion."""

import asyncio
import json
import math
from typing import Any

from rlserve.errors import InvalidRequest, Unavailable
from rlserve.records import Outcome, Verdict
from rlserve_prime.tasksets import tasks_of


class PrimeVerifier:
    """Runs the task's own ``@reward`` and ``@metric`` functions over a trace of prompt and completion.

    The reward is the library's weighted sum; each reward and metric is a part of the verdict. A sum of at least
    ``pass_at`` passes. Rewards that need a container of the library's own are not run; a task with only such rewards
    has no verdict.
    """

    name = "prime"
    version = "1"
    description = "the own rewards of a taskset of the verifiers library"
    reward_range = (-1e6, 1e6)

    def __init__(self, *, pass_at: float = 1.0) -> None:
        self._pass_at = pass_at

    def prepare(self) -> None:
        """Import the library before the first completion arrives."""
        import verifiers.v1  # noqa: F401

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Verify one completion. Raises InvalidRequest for a malformed payload, Unavailable if scoring fails."""
        task = _task(payload)
        trace = _trace(task, completion)
        try:
            # score() is a coroutine; a judge process verifies one completion at a time and has no loop of its own.
            asyncio.run(task.score(trace))
        # Rewards are code of the taskset's author and may raise anything: that is no verdict, never a reward of 0.
        except Exception as error:
            raise Unavailable(f"{type(task).__name__}: its rewards failed: {type(error).__name__}: {error}") from error
        rewards = {name: reward for name, reward in trace.rewards.items() if reward is not None}
        # A reward that needs the library's container stays None.
        if not rewards or not math.isfinite(trace.reward):
            raise Unavailable(f"{type(task).__name__}: gave no finite reward (rewards: {sorted(trace.rewards)})")
        parts = {name: float(reward.score) for name, reward in rewards.items()}
        parts |= {name: float(value) for name, value in trace.metrics.items() if value is not None}
        return Verdict(
            outcome=Outcome.PASS if trace.reward >= self._pass_at else Outcome.FAIL,
            reward=float(trace.reward),
            parts=parts,
            reason=", ".join(f"{name} {value:g}" for name, value in parts.items())[:300],
            verifier=self.name,
        )


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


def _trace(task: Any, completion: str) -> Any:
    """The library's record of a single turn."""
    from verifiers import v1 as vf

    # A completion may hold lone surrogates, which pydantic refuses in a message.
    text = completion.encode("utf-8", "replace").decode()
    prompt = task.data.prompt
    messages = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt or [])
    if task.data.system_prompt:
        # As in the environment's prompt: judges of the taskset must see what the policy saw.
        messages.insert(0, vf.SystemMessage(content=task.data.system_prompt))
    parents = [None, *range(len(messages))]
    nodes = [vf.MessageNode(parent=parent, message=m) for parent, m in zip(parents, messages, strict=False)]
    nodes.append(vf.MessageNode(parent=parents[len(messages)], message=vf.AssistantMessage(content=text), sampled=True))
    return vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=nodes,
        is_completed=True,
        ok=True,
    )
