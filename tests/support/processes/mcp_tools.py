"""An MCP server over standard input and output: sums, a memory of its own, odd tools, and a reward."""

import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("sums")
remembered: list[int] = []


@server.tool()
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@server.tool()
def remember(number: int) -> list[int]:
    """Keep a number; returns all that were kept."""
    remembered.append(number)
    return remembered


@server.tool()
def shout(length: int) -> str:
    """A long text."""
    return "a" * length


@server.tool()
def sleep(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "done"


@server.tool()
def fail() -> str:
    """Always an error."""
    raise ValueError("out of order")


@server.tool()
def score(answer: str, columns: dict[str, str]) -> float:
    """The reward of an answer; not for the policy."""
    return 1.0 if columns["answer"] in answer else 0.25


if __name__ == "__main__":
    server.run()
