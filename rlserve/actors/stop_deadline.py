"""A deadline for stopping: a process that hangs in its stop logs what it waits for, then exits.

A task that ignores its cancellation, a thread that the interpreter joins, a peer that keeps its stream open: each can
block a stopping process indefinitely. The deadline runs in its own thread, because the event loop may be stuck.
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
"""Far above an orderly stop, which drains calls and saves state within seconds."""
EXIT_STUCK = 4  # any value that nothing else here exits with


def end_within(seconds: float, who: str, *, loop: asyncio.AbstractEventLoop | None = None) -> threading.Timer:
    """Exit with code 4 unless this process ends by itself within ``seconds``; logs what each thread waits for.

    ``loop``: the event loop whose tasks are logged, too. Cancel the returned timer if the process continues.
    """
    timer = threading.Timer(seconds, _end, (seconds, who, loop))
    # A daemon: the interpreter joins other threads at its end, and an orderly stop would last until the deadline.
    timer.daemon = True
    timer.start()
    return timer


def _end(seconds: float, who: str, loop: asyncio.AbstractEventLoop | None) -> None:
    try:
        logger.error(
            "%s: still running %g s after its stop began; exiting now. It waited in:\n%s",
            who,
            seconds,
            "\n".join([*_tasks(loop), *_threads()]),
        )
        # os._exit skips the atexit handler that would flush what is logged here.
        logging.shutdown()
    finally:
        # Also when the report fails. sys.exit would end this thread alone.
        os._exit(EXIT_STUCK)


def _tasks(loop: asyncio.AbstractEventLoop | None) -> list[str]:
    if loop is None:
        return []
    try:
        tasks = list(asyncio.all_tasks(loop))
    except RuntimeError:  # the loop changed its set of tasks while all_tasks copied it
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
