"""A stop that has begun ends: a process that hangs in it says in what, and is ended.

A cancelled task that does not end, a thread that the interpreter waits for, a peer that holds its stream: each can
keep a process for ever that was asked to stop. The deadline is kept by a thread of its own, for a loop that is stuck
cannot keep it.
"""

import asyncio
import logging
import os
import sys
import threading
import traceback
from types import FrameType

logger = logging.getLogger(__name__)

STOP_SECONDS = 60.0
EXIT_STUCK = 4


def end_within(seconds: float, who: str, *, loop: asyncio.AbstractEventLoop | None = None) -> threading.Timer:
    """From now on this process ends within ``seconds``: by itself, or with exit code 4 and a log of what it waits for.

    ``loop``: the event loop whose tasks are named too. Cancel the result where the process goes on after all.
    """
    timer = threading.Timer(seconds, _end, (seconds, who, loop))
    timer.daemon = True
    timer.start()
    return timer


def _end(seconds: float, who: str, loop: asyncio.AbstractEventLoop | None) -> None:
    try:
        logger.error(
            "%s: did not end within %g s after its stop began; it is ended now. It waited in:\n%s",
            who,
            seconds,
            "\n".join([*_tasks(loop), *_threads()]),
        )
        logging.shutdown()
    finally:
        os._exit(EXIT_STUCK)


def _tasks(loop: asyncio.AbstractEventLoop | None) -> list[str]:
    if loop is None:
        return []
    try:
        tasks = list(asyncio.all_tasks(loop))
    except RuntimeError:  # changed while it was copied, by a loop that runs
        return []
    return [f"task {task.get_name()}: {_places(task.get_stack(limit=3))}" for task in tasks if not task.done()]


def _threads() -> list[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    return [
        f"thread {names.get(ident, ident)}: {_places(_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != own
    ]


def _stack(frame: FrameType) -> list[FrameType]:
    return [found for found, _ in traceback.walk_stack(frame)][:3]


def _places(frames: list[FrameType]) -> str:
    return " < ".join(f"{f.f_code.co_name} ({f.f_code.co_filename}:{f.f_lineno})" for f in frames) or "(no frame)"
