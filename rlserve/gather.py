"""Several coroutines at once, none of which outlives a failure of another."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. On the first error, or when cancelled, cancel the others, await their end and raise it.

    ``asyncio.gather`` leaves the others running, and ``asyncio.TaskGroup`` wraps the error in an ExceptionGroup,
    which callers would have to unwrap to see EngineDied.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
