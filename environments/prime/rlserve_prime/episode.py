"""An episode with a taskset's tools: its tool servers in this process, its own rewards at the end."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlserve.environments.adapters.mcp_session import McpServer, McpSession
from rlserve.records import Message, Tool, ToolCall, Turn, Verdict
from rlserve_prime.rewards import judged

MAX_CHARACTERS = 2**16
"""Of one tool's result; the rest is cut. Any value of this size will do: some 16,000 tokens."""


class Toolsets:
    """The tool servers of one task, each with a state that the task's rewards see.

    Example::

        tools = Toolsets(task, state)
        tools.offered                        # (Tool(name="shelf_look_up", ...),)
        tools.call("shelf_look_up", {"key": "a"})
        tools.close()
    """

    def __init__(self, task: Any, state: Any) -> None:
        """Set every server up. Raises what their set-up raises."""
        from mcp.server.mcpserver import MCPServer

        self._sessions: dict[str, tuple[McpSession, str]] = {}
        self._stack = contextlib.ExitStack()
        offered: list[Tool] = []
        try:
            for toolset in type(task).toolsets(task.config):
                _share(toolset, state)
                server = MCPServer(toolset.server_name or type(toolset).__name__)
                toolset.register(server)
                session = McpSession(McpServer(target=server))
                self._stack.callback(session.close)
                session.run(toolset.setup)
                session.run(lambda toolset=toolset: toolset.setup_task(task.data))
                prefix = f"{toolset.server_name}_" if toolset.server_name else ""
                for tool in session.tools():
                    name = prefix + tool.name
                    self._sessions[name] = session, tool.name
                    offered.append(Tool(name=name, description=tool.description, parameters_json=tool.parameters_json))
        except BaseException:
            self._stack.close()
            raise
        self.offered = tuple(offered)

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The result, or the error, as text."""
        if name not in self._sessions:
            return f"Error: there is no tool {name[:80]!r}; there are: {', '.join(sorted(self._sessions))}"
        session, own = self._sessions[name]
        result = session.call(own, arguments)
        return (f"Error: {result.text}" if result.is_error else result.text)[:MAX_CHARACTERS]

    def close(self) -> None:
        """End the servers."""
        self._stack.close()


class PrimeEpisode:
    """One attempt at a task with tools; a turn without a call is the answer and ends it."""

    def __init__(self, task: Any, *, turns: int, pass_at: float | None) -> None:
        from verifiers.v1.state import State
        from verifiers.v1.utils.generic import concrete_type

        self._task, self._turns, self._pass_at = task, turns, pass_at
        self._state = (concrete_type(type(task), State) or State)()
        self._tools = Toolsets(task, self._state)
        self._said: list[Any] = []
        self._taken = 0

    def call(self, text: str, calls: tuple[ToolCall, ...]) -> Turn:
        """The results of the calls."""
        from verifiers import v1 as vf

        self._taken += 1
        results = [(call, self._tools.call(call.name, call.arguments)) for call in calls]
        written = [vf.ToolCall(id=call.id, name=call.name, arguments=call.arguments_json) for call in calls]
        self._said.append(vf.AssistantMessage(content=_sendable(text), tool_calls=written))
        self._said += [vf.ToolMessage(tool_call_id=c.id, name=c.name, content=_sendable(r)) for c, r in results]
        messages = tuple(Message(role="tool", tool_call_id=call.id, content=result) for call, result in results)
        return Turn(messages=messages, done=self._taken >= self._turns, verdict=self._verdict())

    def step(self, text: str) -> Turn:
        """The answer: the end."""
        from verifiers import v1 as vf

        self._taken += 1
        self._said.append(vf.AssistantMessage(content=_sendable(text)))
        return Turn(done=True, verdict=self._verdict())

    def close(self) -> None:
        """End the tool servers."""
        self._tools.close()

    def _verdict(self) -> Verdict:
        return judged(self._task, self._said, pass_at=self._pass_at, state=self._state)


def tools_of(task: Any) -> Sequence[Tool]:
    """The tools that a task offers; their servers are started to ask for them."""
    from verifiers.v1.state import State
    from verifiers.v1.utils.generic import concrete_type

    tools = Toolsets(task, (concrete_type(type(task), State) or State)())
    tools.close()
    return tools.offered


def _share(toolset: Any, state: Any) -> None:
    """Let a tool server work on ``state``: without the library's own launcher there is no channel to pull it from."""

    async def pull() -> Any:
        return state

    async def push(before: bytes) -> None: ...

    toolset._pull_state, toolset._push_state = pull, push


def _sendable(text: str) -> str:
    # A text may hold lone surrogates, which pydantic refuses in a message.
    return text.encode("utf-8", "replace").decode()
