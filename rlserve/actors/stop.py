"""SIGTERM and SIGINT as an event."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that the first SIGTERM or SIGINT sets; a second signal has its default effect.

    Call it in the main thread, inside a running event loop.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def restore() -> None:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    def stop() -> None:
        stopped.set()
        # Restored by the first signal, so that a second one ends a process whose stop hangs.
        restore()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield stopped
    finally:
        restore()
