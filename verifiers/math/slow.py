"""math-verify for the formulas that our reader does not know: integrals, sums, limits.

Gold first (its ``verify`` is not symmetric). Its own timers are off, since together they allow ten seconds; a timer
of CPU time ends it, and the worker's limits end what no timer can. A parsed formula is never printed: that alone
can hang.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

CPU_SECONDS = 0.5


class TimeUp(BaseException):
    """The CPU time for one formula is used up. Not an Exception: libraries would catch and ignore it."""


def equal_by_math_verify(gold: str, answer: str) -> bool:
    """What math-verify says; False when it cannot read a side. Raises TimeUp after ``CPU_SECONDS``."""
    # Imported here: sympy takes half a second that most answers never need.
    from math_verify import LatexExtractionConfig, parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it warns at each call that its timers are off
    config = [LatexExtractionConfig()]
    options: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None}
    with cpu_limit(CPU_SECONDS):
        sides = [parse(f"${text}$", extraction_config=config, **options) for text in (gold, answer)]
        return all(sides) and bool(verify(sides[0], sides[1], timeout_seconds=None))


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block after ``seconds`` of CPU time; no limit outside of the main thread.

    CPU time and not wall time, so that a busy machine fails nobody. The timer fires again and again, in case a
    library swallows the first one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
