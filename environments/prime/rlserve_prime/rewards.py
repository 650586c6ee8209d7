"""A task's own rewards of what was said, as a verdict."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from rlserve.errors import Unavailable
from rlserve.records import Verdict
from rlserve.records.verdict import outcome_of


def judged(task: Any, said: Sequence[Any], *, pass_at: float | None, state: Any = None) -> Verdict:
    """The verdict on a conversation: ``said`` is what follows the task's prompt, in the library's messages.

    Raises Unavailable if the rewards fail, or none can be computed here.
    """
    trace = _trace(task, said, state)
    try:
        # score() is a coroutine; the calling thread has no loop of its own.
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
        outcome=outcome_of(trace.reward, pass_at),
        reward=float(trace.reward),
        parts=parts,
        reason=", ".join(f"{name} {value:g}" for name, value in parts.items())[:300],
        verifier="prime",
    )


def _trace(task: Any, said: Sequence[Any], state: Any) -> Any:
    """The library's record of a conversation with one policy."""
    from verifiers import v1 as vf

    prompt = task.data.prompt
    messages = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt or [])
    if task.data.system_prompt:
        # As in the environment's prompt: judges of the taskset must see what the policy saw.
        messages.insert(0, vf.SystemMessage(content=task.data.system_prompt))
    nodes = [
        vf.MessageNode(parent=at - 1 if at else None, message=message, sampled=isinstance(message, vf.AssistantMessage))
        for at, message in enumerate([*messages, *said])
    ]
    # A conversation that a task begins with may hold turns of an assistant, which no policy sampled.
    for node in nodes[: len(messages)]:
        node.sampled = False
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=nodes,
        is_completed=True,
        ok=True,
    )
    if state is not None:
        trace.state = state
    return trace
