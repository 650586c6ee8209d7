"""Tools of an MCP server, offered to the policy; tasks come from a data set."""

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlserve.environments.adapters.mcp_session import McpServer, McpSession
from rlserve.environments.adapters.play import verdict_of
from rlserve.environments.files.dataset import DatasetEnvironment
from rlserve.errors import InvalidRequest, PluginFailed
from rlserve.records import Message, Task, Tool, ToolCall, Turn, Verdict
from rlserve.verifiers.reasoning import answer_of as without_thoughts

Judge = Callable[[McpSession, str | None, int], Verdict | None]
"""From a session, the answer (None: the policy has not answered) and the number of turns."""
MAX_TURNS = 1000
"""Any value of this size will do: far beyond the context of today's models."""


class McpEnvironment:
    """Questions from a data set, answered with the tools of an MCP server.

    ``data`` has the options of the environment ``dataset``. The server is started by ``command``, or runs at ``url``.
    One connection serves all episodes; with ``shared`` false, for servers that keep a state, each episode has its own,
    and its own server if it is started. ``tools`` chooses among the server's tools. A turn that calls tools is answered
    by their results, at most ``max_characters`` each; a turn without a call is the answer and ends the episode, and so
    does turn ``turns``. With ``reward_tool``, a tool that the policy does not see gives the reward for
    ``{"answer": ..., "columns": {...}}``, a number; without it the data set's verifier judges what the policy wrote.

    Example::

        environment = McpEnvironment(data={"path": "tasks.jsonl"}, command=["python", "server.py"])
        episode = environment.open(environment.task("train", 0, 0))
        episode.call(text, (ToolCall(id="call00000", name="add", arguments_json='{"a": 3, "b": 4}'),))
        episode.step("The answer is 7.")
    """

    name = "mcp"
    version = "1"
    multi_turn = True

    def __init__(
        self,
        *,
        data: Mapping[str, Any],
        command: Sequence[str] = (),
        url: str = "",
        env: Mapping[str, str] | None = None,
        tools: Sequence[str] = (),
        reward_tool: str = "",
        pass_at: float | None = None,
        turns: int = 8,
        max_calls: int = 8,
        max_characters: int = 8192,
        call_seconds: float = 8.0,
        shared: bool = True,
    ) -> None:
        if bool(command) == bool(url):
            raise InvalidRequest("command, url: give exactly one of the two")
        if isinstance(command, str):
            raise InvalidRequest('command: is one text; give a list, such as ["python", "server.py"]')
        if not 1 <= turns <= MAX_TURNS or max_calls < 1 or max_characters < 1 or call_seconds <= 0:
            raise InvalidRequest("turns, max_calls, max_characters, call_seconds: give numbers above 0")
        self._data = _data_set({"prompt_format": "chat", **data, **({"verifier": ""} if reward_tool else {})})
        self.verifier = self._data.verifier
        self._server = McpServer(command=tuple(command), env=dict(env or {}), url=url, call_seconds=call_seconds)
        self._reward_tool, self._pass_at = reward_tool, pass_at
        self._limits = (turns, max_calls, max_characters)
        self._is_shared, self._lock = shared, threading.Lock()
        self._shared: McpSession | None = None
        self._users: Counter[McpSession] = Counter()
        """Episodes that work with a connection."""
        self._tools = self._chosen(tuple(tools))

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows of each split of the data set."""
        return self._data.splits

    def task(self, split: str, index: int, seed: int) -> Task:
        """Row ``index`` of the data set's split, with the tools; ``seed`` has no effect."""
        row = self._data.task(split, index, seed)
        return replace(
            row,
            environment=self.name,
            environment_version=self.version,
            multi_turn=True,
            tools=(*row.tools, *self._tools),
        )

    def open(self, task: Task) -> "McpEpisode":
        """Start an episode of ``task``."""
        turns, max_calls, max_characters = self._limits
        return McpEpisode(
            self._taken(),
            tools=frozenset(tool.name for tool in self._tools),
            give_back=self._give_back,
            judge=self._judge_of(task),
            turns=turns,
            max_calls=max_calls,
            max_characters=max_characters,
        )

    def close(self) -> None:
        """End the shared connection, if there is one."""
        if self._shared is not None:
            self._shared.close()

    def _chosen(self, names: tuple[str, ...]) -> tuple[Tool, ...]:
        session = self._taken()
        try:
            offered = {tool.name: tool for tool in session.tools()}
        finally:
            self._give_back(session)
        known = ", ".join(offered) or "none"
        asked = [("tools", name) for name in names]
        asked += [("reward_tool", self._reward_tool)] if self._reward_tool else []
        for key, name in asked:
            if name not in offered:
                raise InvalidRequest(f"{key}: {name!r} is not offered by the server (offered: {known})")
        chosen = [tool for name, tool in offered.items() if name != self._reward_tool and (not names or name in names)]
        if not chosen:
            raise InvalidRequest(f"tools: none is left to offer (the server offers: {known})")
        return tuple(chosen)

    def _taken(self) -> McpSession:
        """A connection to work with, until it is given back."""
        if not self._is_shared:
            return McpSession(self._server)
        with self._lock:
            if self._shared is None or self._shared.is_broken:
                if self._shared is not None and not self._users[self._shared]:
                    self._shared.close()
                self._shared = McpSession(self._server)
            self._users[self._shared] += 1
            return self._shared

    def _give_back(self, session: McpSession) -> None:
        with self._lock:
            self._users[session] -= 1
            # One that broke, and was replaced, ends with the last episode that still works with it.
            is_over = not self._is_shared or (session is not self._shared and not self._users[session])
            if is_over:
                del self._users[session]
        if is_over:
            with contextlib.suppress(Exception):  # the episode is over, and its server may be gone
                session.close()

    def _judge_of(self, task: Task) -> Judge:
        if not self._reward_tool:
            return lambda session, answer, turns: None
        columns = self._data.columns(task.split, task.index, task.seed)

        def judge(session: McpSession, answer: str | None, turns: int) -> Verdict:
            reward = 0.0
            if answer is not None:
                result = session.call(self._reward_tool, {"answer": answer, "columns": columns})
                try:
                    reward = float(result.text)
                except ValueError:
                    reward = math.nan
                if result.is_error or not math.isfinite(reward):
                    raise PluginFailed(f"reward_tool {self._reward_tool!r}: gave no number: {result.text[:200]!r}")
            said = "no answer" if answer is None else "answered"
            return verdict_of(
                self.name, reward, pass_at=self._pass_at, turns=turns, reason=f"{said} after {turns} turns"
            )

        return judge


def _data_set(options: Mapping[str, Any]) -> DatasetEnvironment:
    """Raises InvalidRequest, which names the option."""
    try:
        return DatasetEnvironment(**options)
    except TypeError as error:  # an option that it does not have, or lacks
        raise InvalidRequest(f"data: {error}; its options are those of the environment dataset") from error


class McpEpisode:
    """One question, answered with tools."""

    def __init__(
        self,
        session: McpSession,
        *,
        tools: frozenset[str],
        give_back: Callable[[McpSession], None],
        judge: Judge,
        turns: int,
        max_calls: int,
        max_characters: int,
    ) -> None:
        self._session, self._tools, self._give_back, self._judge = session, tools, give_back, judge
        self._turns, self._max_calls, self._max_characters = turns, max_calls, max_characters
        self._taken = 0

    def step(self, text: str) -> Turn:
        """The answer: the end."""
        self._taken += 1
        return Turn(done=True, verdict=self._judge(self._session, without_thoughts(text, ""), self._taken))

    def call(self, text: str, calls: tuple[ToolCall, ...]) -> Turn:
        """The results of the calls, in their order."""
        self._taken += 1
        if self._taken >= self._turns:  # none is left to read a result
            return Turn(done=True, verdict=self._judge(self._session, without_thoughts(text, ""), self._taken))
        contents = [self._result(call) for call in calls[: self._max_calls]]
        contents += [f"Error: at most {self._max_calls} calls in one turn"] * (len(calls) - len(contents))
        messages = [
            Message(role="tool", tool_call_id=call.id, content=content)
            for call, content in zip(calls, contents, strict=True)
        ]
        return Turn(messages=tuple(messages), verdict=self._judge(self._session, None, self._taken))

    def close(self) -> None:
        """Give the connection back; one of this episode alone ends."""
        self._give_back(self._session)

    def _result(self, call: ToolCall) -> str:
        # The reward tool, and those left out, must not be called by a guess.
        if call.name not in self._tools:
            return f"Error: there is no tool {call.name[:80]!r}; there are: {', '.join(sorted(self._tools))}"
        result = self._session.call(call.name, call.arguments)
        text = f"Error: {result.text}" if result.is_error else result.text
        cut = len(text) - self._max_characters
        return f"{text[: self._max_characters]} ... ({cut} more characters)" if cut > 0 else text
