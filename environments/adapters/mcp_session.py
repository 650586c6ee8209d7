"""One connection to an MCP server, used from threads; its event loop runs in a thread of its own."""

import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rlserve.environments.adapters.play import library
from rlserve.errors import Unavailable
from rlserve.records import Tool

T = TypeVar("T")
START_SECONDS = 30.0
"""Limit of a server's greeting: a Python server imports for some seconds on a busy machine."""
MAX_PAGES = 100
"""Of a server's list of tools. Any value of this size will do: a list that never ends is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """How a server is reached: started by a command, or at a URL."""

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """For the command, beside the few variables that the library passes on."""
    url: str = ""
    target: Any = None
    """What else the library connects to, such as a server in this process."""
    call_seconds: float = 8.0
    """Limit of a call."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call of a tool returned."""

    text: str
    is_error: bool


class McpSession:
    """An open connection. ``close`` it; a server that a command started ends with it.

    Example::

        session = McpSession(McpServer(command=("python", "server.py")))
        session.call("add", {"a": 1, "b": 2})    # ToolResult("3", is_error=False)
        session.close()
    """

    def __init__(self, server: McpServer) -> None:
        """Start and greet the server. Raises InvalidRequest without the library, Unavailable without a server."""
        mcp = library("mcp", "mcp")
        portals = library("anyio.from_thread", "mcp")
        target: Any = server.target or server.url
        if server.command:
            name, *arguments = server.command
            target = mcp.StdioServerParameters(command=name, args=arguments, env=dict(server.env))
        self._call_seconds = server.call_seconds
        self._errors: Any = mcp.MCPError
        self.is_broken = False
        """Whether a request got no answer: the next ones would get none either."""
        self._what = server.url or " ".join(server.command) or "in this process"
        self._stack = contextlib.ExitStack()
        try:
            self._portal = self._stack.enter_context(portals.start_blocking_portal())
            client = mcp.Client(target, read_timeout_seconds=START_SECONDS)
            self._client = self._stack.enter_context(self._portal.wrap_async_context_manager(client))
        except BaseException as error:
            self._stack.close()
            if isinstance(error, Exception):
                raise Unavailable(f"MCP server {self._what!r}: cannot be reached: {_words(error)}") from error
            raise

    def tools(self) -> tuple[Tool, ...]:
        """The tools that the server offers. Raises Unavailable."""
        found: list[Tool] = []
        cursor = None
        for _ in range(MAX_PAGES):
            page = self._ask(lambda cursor=cursor: self._client.list_tools(cursor=cursor))
            found += [
                Tool(name=t.name, description=t.description or "", parameters_json=json.dumps(t.input_schema))
                for t in page.tools
            ]
            cursor = page.next_cursor
            if not cursor:
                return tuple(found)
        raise Unavailable(f"MCP server {self._what!r}: its list of tools does not end")

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool; what the server refuses is an error result. Raises Unavailable when it gives no answer."""
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        try:
            result = self._ask(lambda: self._client.call_tool(name, dict(arguments), self._call_seconds))
        except self._errors as error:
            # Anything else is the server's answer, for example that it has no such tool.
            if error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
                self.is_broken = True
                raise Unavailable(f"MCP server {self._what!r}: tool {name!r}: {error}") from error
            return ToolResult(str(error), is_error=True)
        return ToolResult("\n".join(map(_text, result.content)), is_error=bool(result.is_error))

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of a coroutine on the connection's event loop: for servers in this process."""
        result: T = self._portal.call(work)
        return result

    def close(self) -> None:
        """End the connection, and the server that a command started."""
        self._stack.close()

    def _ask(self, request: Any) -> Any:
        try:
            return self._portal.call(request)
        except self._errors:
            raise
        except Exception as error:  # a transport that broke raises errors of many libraries
            self.is_broken = True
            raise Unavailable(f"MCP server {self._what!r}: {_words(error)}") from error


def _text(block: Any) -> str:
    text = getattr(block, "text", None)
    return text if isinstance(text, str) else f"[{block.type}]"


def _words(error: BaseException) -> str:
    # Task groups wrap what broke.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
