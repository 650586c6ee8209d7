r"""Compares formulas beyond our reader (integrals, sums, limits) by the math-verify library, behind guards.

``may_ask`` is the guard: math-verify drops text that it does not understand (a word, a relation, the rest of a text)
and compares the remainder. The gold answer comes first, since its ``verify`` is not symmetric. Its own timers are off,
since together they allow ten seconds; a timer of processor time ends it, and the limits of the judge process end what
no timer can. A parsed formula is never printed: printing alone can hang.
"""

import functools
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rlserve.verifiers.math.notation.normalize import vocabulary

CPU_SECONDS = 2.5
"""For one comparison, without imports and first use; honest ones take a tenth of it, also on a busy machine."""
MAX_CHARACTERS = 240
"""Of either side. Any value of this size will do: one formula with room to spare."""
COMMANDS = vocabulary(
    "frac sqrt binom int iint oint sum prod lim infty pi to rightarrow ln log exp sin cos tan cot sec csc arcsin arccos"
    " arctan sinh cosh tanh cdot times alpha beta gamma theta lambda mu partial lfloor rfloor lceil rceil"
)
"""All commands that a formula may contain to be compared by math-verify."""
COMMAND = re.compile(r"\\([A-Za-z]+)")
PLAIN = re.compile(r"[0-9A-Za-z+\-*/^_(){}\[\].!| ]*")
WORD = re.compile(r"(?<![A-Za-z\\])(?!d[a-z](?![A-Za-z]))[A-Za-z]{2,}")
"""Two letters or more are a word; ``dx`` is not."""
ARROW = re.compile(r"(?<=[a-z])\\(?:to|rightarrow) ?")
BOUND = re.compile(r"_ ?\{ ?[a-z] ?= ?(?=[^=]*?\})")
DIGITS = 40
"""Of a constant's value: ten more than ``CLOSENESS`` asks for, since sympy's last digits may be wrong."""
CLOSENESS = 1e-30
"""Relative. As in ``scalars.py``: two different constants of an exercise do not agree to 30 digits."""
PROBE = 7919
"""Added to a formula, it must appear in its value: a formula that was not read to its end misses it. Any number that
no exercise contains will do; this one is a prime."""
FORMS = (
    ("\\frac{1}{3}", "\\int_0^1 x^2 dx"),
    ("1", "\\lim_{x \\to 0} \\frac{\\sin x}{x}"),
    ("e", "\\lim_{n \\to \\infty} (1+\\frac{1}{n})^n"),
    ("55", "\\sum_{k=1}^{10} k"),
    ("2", "\\sum_{k=0}^{\\infty} \\frac{1}{2^k}"),
    ("24", "\\prod_{k=1}^{4} k"),
    ("2x", "\\frac{d}{dx} x^2"),
)
"""One of each form: sympy imports its solvers at first use, which takes up to a second."""


class TimeUp(BaseException):
    """One comparison used up its processor time. Not an Exception: sympy catches those and would go on."""


@functools.cache
def prepare() -> None:
    """Import math-verify and use each form once, without limits, so that no completion pays for it."""
    for gold, answer in FORMS:
        _judge(gold, answer)


def equal_by_math_verify(gold: str, answer: str) -> bool:
    """True when math-verify finds both equal; False when it cannot read a side or may not be used. Raises TimeUp."""
    if not may_ask(gold) or not may_ask(answer):
        return False
    prepare()  # outside of the limit, where it was not called before
    with cpu_limit(CPU_SECONDS):
        return _judge(gold, answer)


def may_ask(text: str) -> bool:
    """True for one plain formula without anything that math-verify is known to drop or to misread."""
    if len(text) > MAX_CHARACTERS or not text.isascii() or not text.strip():
        return False
    if any(command.group(1) not in COMMANDS for command in COMMAND.finditer(text)):
        return False
    rest = COMMAND.sub(" ", BOUND.sub("_{", ARROW.sub(" ", text)))
    return PLAIN.fullmatch(rest) is not None and WORD.search(rest) is None


def _judge(gold: str, answer: str) -> bool:
    parse, verify = _library()
    sides = [_parsed(parse, text) for text in (gold, answer)]
    if any(side is None for side in sides):
        return False
    values = [_value(side) for side in sides]
    # Two constants are compared here: math-verify rounds before it compares, and passes 6 + 10^{-12} for 6.
    if values[0] is not None and values[1] is not None:
        same = values[0] == values[1]  # infinities too
        return bool(same or abs(values[0] - values[1]) <= CLOSENESS * max(1, abs(values[0])))
    return bool(verify([sides[0]], [sides[1]], timeout_seconds=None))


def _value(formula: Any) -> Any | None:
    """Return a constant formula's value to ``DIGITS`` digits, or None; 100 times faster than comparing symbols."""
    import sympy

    if formula.free_symbols:
        return None
    # evalf computes integrals, sums and products, but not limits: these are solved first.
    formula = formula.replace(sympy.Limit, lambda *limit: sympy.Limit(*limit).doit())
    # A sum that evalf cannot compute may still have a closed form, which doit finds.
    for written in (formula, formula.doit()) if formula.has(sympy.Sum) else (formula,):
        try:
            value = written.evalf(DIGITS, strict=True)
        except (ArithmeticError, ValueError, TypeError, NotImplementedError):
            continue
        if value in (sympy.oo, -sympy.oo):
            return value
        if value.is_number and value.is_finite and not value.has(sympy.Integral, sympy.Sum, sympy.Product):
            return value
    return None


def _parsed(parse: Callable[..., list[Any]], text: str) -> Any | None:
    """Return the formula of ``text``, or None when math-verify does not read all of it as one formula."""
    import sympy

    formula, probed = (_first(parse, written) for written in (text, f"({text})+{PROBE}"))
    if not isinstance(formula, sympy.Expr) or not isinstance(probed, sympy.Expr):
        return None
    if formula in (sympy.oo, -sympy.oo):
        return formula if formula == probed.doit() else None  # the difference of two infinities would be nan
    return formula if sympy.expand(probed - formula - PROBE) == 0 else None


def _first(parse: Callable[..., list[Any]], text: str) -> Any | None:
    from math_verify import LatexExtractionConfig

    options: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None}
    found = parse(f"${text}$", extraction_config=[LatexExtractionConfig()], **options)
    return found[0] if found else None


@functools.cache
def _library() -> tuple[Callable[..., list[Any]], Callable[..., bool]]:
    # Imported here: sympy takes half a second that most answers never need.
    from math_verify import parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it warns at each call that its timers are off
    return parse, verify


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block after ``seconds`` of processor time; no limit outside of the main thread.

    It counts processor time and not wall time, so that a busy machine fails no answer. The timer fires every half
    second from then on, in case a library swallows the first exception.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a signal handler
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
