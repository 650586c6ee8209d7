"""One check per promise of episodes: returns the fault, "" if there is none, or raises Skip."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rlserve.actors.environment.client import EnvironmentClient
from rlserve.actors.environment.conformance.site import Site, Skip, verify_all
from rlserve.errors import RlserveError
from rlserve.records import Message, Outcome, Task, ToolCall, Turn, Verdict

SAID = ("1", "no", "[10]", "40", "I think so. <answer>3</answer>", "left", "[3]", "5")
"""What is said, turn by turn, by no policy in particular: most of it is nonsense to any environment."""
MAX_TURNS = 200
"""An episode that goes on for longer is taken for endless: the default of episodes.max_turns is 32."""
TURN_SECONDS = 5.0
"""Limit of one answer: half of what a worker grants by default (episodes.turn_seconds)."""
ODD_TURNS = {
    "an empty text": "",
    "100 KB of one letter": "a" * 100_000,
    "100 KB of digits": "7" * 100_000,  # int() refuses more than 4300 digits
    "100 KB of brackets": "[" * 50_000 + "]" * 50_000,  # recursive parsers
    "a lone surrogate": "\ud800",  # sampled bytes need not be UTF-8
    "a NUL": "a\x00b",
    "a text cut in a tool call": '<tool_call>\n{"name": "',
}


@dataclass(frozen=True, slots=True)
class Played:
    """One episode: its answers, and whether the server ended the stream after the last one."""

    turns: tuple[Turn, ...]
    has_ended: bool

    @property
    def outline(self) -> list[object]:
        """What must repeat. Of a verdict not its duration."""
        return [(t.messages, t.done, None if t.verdict is None else _worth(t.verdict)) for t in self.turns]


async def episodes_answer_and_end(site: Site) -> str:
    """An episode answers each turn within five seconds, with something to read, and ends by itself."""
    for task in await _tasks(site, 2):
        played = await play(site.client, task, SAID, most=MAX_TURNS)
        if not played.turns[-1].done:
            return f"task {task.index}: {MAX_TURNS} turns did not end it; limit the turns"
        if not played.has_ended:
            return f"task {task.index}: the stream goes on after the answer with done = true; end it"
        silent = [n for n, turn in enumerate(played.turns) if not turn.done and not "".join(_read(turn)).strip()]
        if silent:
            return f"task {task.index}: the answer to turn {silent[0]} has no text for the policy to read"
    return ""


async def episodes_are_judged(site: Site) -> str:
    """Wherever an episode ends there is a verdict: of its last answer, or of the task's verifier."""
    for task in await _tasks(site, 2):
        played = await play(site.client, task, SAID, most=4)
        for number, turn in enumerate(played.turns):
            if turn.verdict is not None:
                if not turn.verdict.has_reward or not math.isfinite(turn.verdict.reward):
                    return f"task {task.index}: the verdict of answer {number} has no finite reward"
            elif not task.verifier:
                return f"task {task.index}: answer {number} has no verdict, and the task no verifier"
        if played.turns[-1].verdict is None and site.verify is not None:
            [verdict] = await verify_all(site, ["\n".join(SAID[: len(played.turns)])], task.payload)
            if not verdict.has_reward:
                return f"task {task.index}: its verifier gives no verdict ({verdict.reason[:120]})"
    return ""


async def episodes_repeat(site: Site) -> str:
    """The same texts get the same answers: at the same time, in another episode, on a restarted server."""
    other = await site.restart() if site.restart is not None else site.client
    for task in await _tasks(site, 2):
        # Two at once: shared state, such as a global random generator, would mix them.
        runs = [play(client, task, SAID, most=8) for client in (site.client, site.client, other)]
        first, *others = await asyncio.gather(*runs)
        for again in others:
            for number, (one, two) in enumerate(zip(first.outline, again.outline, strict=False)):
                if one != two:
                    return f"task {task.index}: answer {number} differs: {one!r:.120} and {two!r:.120}"
            if len(first.turns) != len(again.turns):
                return f"task {task.index}: ends after {len(first.turns)} and after {len(again.turns)} turns"
    return ""


async def junk_is_answered(site: Site) -> str:
    """Empty, huge, odd and cut texts get an answer, and none of them passes."""
    [task] = await _tasks(site, 1)
    for what, text in ODD_TURNS.items():
        try:
            played = await play(site.client, task, [text], most=2)
        except RlserveError as error:
            return f"{what}: {type(error).__name__}: {error}"
        verdict = played.turns[-1].verdict
        if verdict is not None and verdict.outcome is Outcome.PASS:
            return f"{what}: passes"
    return ""


async def tool_calls_are_answered(site: Site) -> str:
    """Each call of a tool is answered: also of an unknown one, and with arguments that its schema forbids."""
    [task] = await _tasks(site, 1)
    if not task.tools:
        raise Skip("its tasks offer no tools")
    names = [tool.name for tool in task.tools] + ["no-such-tool"]
    for name in names:
        for arguments in ({}, {"no-such-argument": [1, None]}):
            call = ToolCall(id="call00000", name=name, arguments_json=json.dumps(arguments))
            async with site.client.episode(task) as episode:
                try:
                    turn = await episode.answer(f"{name} {arguments}", (call,), deadline_seconds=TURN_SECONDS)
                except RlserveError as error:
                    return f"{name}({arguments}): {type(error).__name__}: {error}"
            # A prompt of plain text has no template that would need ids.
            is_chat = isinstance(task.prompt[0], Message)
            if is_chat and not turn.done and not any(message.tool_call_id == call.id for message in turn.messages):
                return f"{name}({arguments}): no message answers the call; set tool_call_id to the call's id"
    return ""


async def episodes_can_be_left(site: Site) -> str:
    """A policy may leave at any turn, also without a word: the server ends that episode, and answers others."""
    [task] = await _tasks(site, 1)
    async with site.client.episode(task):
        pass  # cut before a turn
    async with site.client.episode(task) as episode:
        if not (await episode.answer(SAID[0], deadline_seconds=TURN_SECONDS)).done:
            await episode.leave("a check")
            if not await episode.has_ended(deadline_seconds=TURN_SECONDS):
                return "the stream goes on after the client left; end it"
    await play(site.client, task, SAID, most=1)
    return ""


EPISODE_CHECKS: tuple[Callable[[Site], Awaitable[str]], ...] = (
    episodes_answer_and_end,
    episodes_are_judged,
    episodes_repeat,
    junk_is_answered,
    tool_calls_are_answered,
    episodes_can_be_left,
)


async def play(client: EnvironmentClient, task: Task, said: Sequence[str], *, most: int) -> Played:
    """An episode in which ``said`` is said over and over, until it is done or for ``most`` turns."""
    turns: list[Turn] = []
    async with client.episode(task) as episode:
        while len(turns) < most:
            text = said[len(turns) % len(said)]
            turns.append(await episode.answer(text, deadline_seconds=TURN_SECONDS))
            if turns[-1].done:
                return Played(tuple(turns), await episode.has_ended(deadline_seconds=TURN_SECONDS))
    return Played(tuple(turns), has_ended=False)


async def _tasks(site: Site, count: int) -> list[Task]:
    """Multi-turn tasks. Raises Skip."""
    split = "train" if "train" in site.spec.splits else min(site.spec.splits)
    tasks = await site.client.get_tasks(site.spec.name, split=split, count=count, seed=6)
    if not tasks[0].multi_turn:
        raise Skip("its tasks have one turn")
    return tasks


def _read(turn: Turn) -> list[str]:
    return [message.content for message in turn.messages]


def _worth(verdict: Verdict) -> object:
    return verdict.outcome, verdict.reward
