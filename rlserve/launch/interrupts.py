"""Runs and stops a run from wherever it is called: a command, a thread, a notebook.

``lived``  waits for: the run. unblocked by: its end. An interrupt of the caller asks the run to stop.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.2
"""Between two looks of a waiting notebook: so long may an interrupt go unnoticed."""


class Life(Protocol):
    """One life of a run."""

    async def run(self) -> int:
        """To the end; the exit code."""
        ...

    def stop(self) -> None:
        """Ask it to stop, in its event loop; a second call does not wait."""
        ...


def lived(life: Life) -> int:
    """Run ``life`` to its end and return its exit code. Raises what it raises."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(life.run())
    return _beside(life)


@contextlib.contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` for each SIGINT and SIGTERM of the block. Outside of the main thread there are none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # loop.add_signal_handler, not signal.signal: the callback runs in the loop, between two steps of its tasks.
    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        # From here on a signal means what it meant before: the processes of the run are gone already.
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # None: it was set by something else than Python
                signal.signal(number, handler)


def _beside(life: Life) -> int:
    """In a thread, for the caller is in an event loop, as in a notebook, which cannot hold a second one."""
    loop = asyncio.new_event_loop()
    ended: list[int | BaseException] = []

    def live() -> None:
        try:
            ended.append(loop.run_until_complete(life.run()))
        except BaseException as error:
            ended.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=live, name="rlserve run")
    thread.start()
    while thread.is_alive():
        try:
            # Not without a limit: a join without an end lets no interrupt through.
            thread.join(LOOK_SECONDS)
        except KeyboardInterrupt:
            with contextlib.suppress(RuntimeError):  # it ended meanwhile
                loop.call_soon_threadsafe(life.stop)
    (outcome,) = ended
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
