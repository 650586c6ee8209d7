"""Child processes of a test: started from a support script, read line by line, never left behind."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


class Child:
    """A started script."""

    def __init__(self, process: asyncio.subprocess.Process, patience_seconds: float) -> None:
        self._process = process
        self._patience_seconds = patience_seconds
        self.pid = process.pid

    async def line(self) -> str:
        """Its next line of output; empty at the end."""
        assert self._process.stdout is not None
        async with asyncio.timeout(self._patience_seconds):
            return (await self._process.stdout.readline()).decode().strip()

    async def until(self, wanted: str) -> None:
        """Read its output as far as a line."""
        while (line := await self.line()) != wanted:
            assert line, f"the child ended before it said {wanted!r}"

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        async with asyncio.timeout(self._patience_seconds):
            return await self._process.wait()


@asynccontextmanager
async def child(
    script: str, *arguments: str, environment: Mapping[str, str] | None = None, patience_seconds: float = 30
) -> AsyncIterator[Child]:
    """Run a script of this folder; it is killed at the end of the block. ``patience_seconds`` bounds each wait."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / script),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
    try:
        yield Child(process, patience_seconds)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
