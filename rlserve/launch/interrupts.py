"""Runs and stops a run from wherever it is called: a command, a thread, a notebook.

``lived``  waits for: the run. unblocked by: its end. An interrupt of the caller asks the run to stop.
"""

import asyncio
import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.2
"""Between two looks of a waiting notebook: so long may a signal wait for its handler."""


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
    if not _is_main():
        yield
        return
    loop = asyncio.get_running_loop()
    with _handlers_kept():
        # loop.add_signal_handler, not signal.signal: the callback runs in the loop, between two steps of its tasks.
        for number in SIGNALS:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            # From here on a signal means what it meant before: the processes of the run are gone already.
            for number in SIGNALS:
                loop.remove_signal_handler(number)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handlers of the main thread's signals after the block."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was set by something else than Python
                signal.signal(number, handler)


def _beside(life: Life) -> int:
    """In a thread, for the caller is in an event loop, as in a notebook, which cannot hold a second one."""
    loop = asyncio.new_event_loop()
    outcome: concurrent.futures.Future[int] = concurrent.futures.Future()

    def live() -> None:
        try:
            outcome.set_result(loop.run_until_complete(life.run()))
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            loop.close()

    def ask(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(life.stop)

    thread = threading.Thread(target=live, name="rlserve run")
    with _handlers_kept() if _is_main() else contextlib.nullcontext():
        # Handlers, not KeyboardInterrupt: asyncio.run of the caller answers the first SIGINT with a cancellation, which
        # this blocked loop would not see.
        for number in SIGNALS if _is_main() else ():
            signal.signal(number, ask)
        thread.start()
        # Not join(): an interrupted one takes the thread for ended in Python 3.11.
        while not outcome.done():
            with contextlib.suppress(TimeoutError):
                outcome.exception(LOOK_SECONDS)
    thread.join()
    return outcome.result()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
