r"""Reads numerals as exact fractions. This is the fast path: most answers are one numeral.

It reads ``-7``, ``007``, ``1,000,000``, ``1 000 000``, ``3.5``, ``.5``, ``1e6``, ``3.2 * 10^{-5}``,
``a/b``, ``\frac{a}{b}``, mixed numbers ``2\frac{1}{2}`` and ``2 1/2``, repeating decimals ``0.\overline{3}``,
``0.(3)`` and ``0.333\ldots``, and numerals of a named base such as ``1010_2``.
"""

import re
from fractions import Fraction

from rlserve.verifiers.math.tree import Number

MAX_EXPONENT = 10_000
"""Of a power of ten: 10**10_000 has 33,220 bits, within ``evaluate.MAX_BITS``."""
# Thousands are groups of exactly three digits, all behind commas or all behind blanks; else the comma is a list's.
PLAIN = r"(?:[0-9]{1,3}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
NUMERAL = re.compile(
    r"(?P<head>[0-9]*\.[0-9]*)(?:\\overline ?\{(?P<over>[0-9]+)\}|\\dot ?\{(?P<dot>[0-9])\}|\((?P<paren>[0-9]+)\))"
    r"|(?P<dots>[0-9]*\.[0-9]+) ?\\ldots"
    rf"|(?P<plain>{PLAIN})(?:[eE](?P<exponent>[-+]?[0-9]{{1,6}})(?![0-9A-Za-z]))?"
)
"""One unsigned numeral; ``tokens.py`` uses it for the numerals inside a formula."""
POWER_OF_TEN = re.compile(r" ?\* ?10 ?\^ ?(?:\{ ?([-+]?[0-9]{1,6}) ?\}|\(? ?([-+]?[0-9]{1,6}) ?\)?)")
INTEGER_FRACTION = re.compile(
    r"\\frac ?(?:\{ ?([0-9]{1,400}) ?\}|([0-9])) ?(?:\{ ?([0-9]{1,400}) ?\}|([0-9]))|([0-9]{1,400}) ?/ ?([0-9]{1,400})"
)
# 200 digits. Any number of this size will do: no exercise converts longer ones.
BASED = re.compile(
    r"(?:\\text\{)?\(?([0-9A-Fa-f]{1,200})\)?\}?_ ?\{?(?:\\text\{)?(?:base )?([a-z]+|[0-9]{1,2})\}{0,2}$"
)
BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
BASE_WORDS |= {"ten": 10, "twelve": 12, "sixteen": 16}


def read_numeral(normal: str) -> Number | None:
    """Return the number that ``normal`` (normalised) writes as one numeral; None when it is something else."""
    sign = -1 if normal.startswith("-") else 1
    body = normal[1:].lstrip() if normal[:1] in ("-", "+") else normal
    fraction = INTEGER_FRACTION.fullmatch(body)
    if fraction is not None:
        value = fraction_value(fraction)
        return None if value is None else Number(sign * value)
    match = NUMERAL.match(body)
    if match is None or match.end() == 0:
        return None
    number = number_of(match)
    rest = body[match.end() :]
    if number is not None and rest:
        number = _with_tail(number, rest)
    return None if number is None else Number(sign * number.value, number.places)


def _with_tail(number: Number, rest: str) -> Number | None:
    power = POWER_OF_TEN.fullmatch(rest)
    if power is not None:
        return scaled(number, int(power.group(1) or power.group(2)))
    fraction = INTEGER_FRACTION.fullmatch(rest.lstrip())
    # A mixed number needs a blank or a command between: "21/2" is a fraction and not 2 1/2.
    if fraction is not None and (rest[0] == " " or rest[0] == "\\"):
        return mixed(number, fraction_value(fraction))
    return None


def mixed(whole: Number, fraction: Fraction | None) -> Number | None:
    """Return a mixed number such as 2 1/2, an integer before a proper fraction; None for anything else."""
    if fraction is None or whole.places is not None or whole.value.denominator != 1 or not 0 < fraction < 1:
        return None
    return Number(whole.value + fraction)


def fraction_value(match: re.Match[str]) -> Fraction | None:
    """Return the value of an INTEGER_FRACTION match; None when its denominator is 0."""
    top, bottom = (group for group in match.groups() if group is not None)
    return Fraction(int(top), int(bottom)) if int(bottom) else None


def scaled(number: Number, exponent: int) -> Number | None:
    """Return ``number`` times a power of ten; None when the exponent is too large to compute with."""
    if abs(exponent) > MAX_EXPONENT:
        return None  # before the power is taken: an exponent of six digits makes a number of 400 kB
    return Number(number.value * Fraction(10) ** exponent)


def number_of(match: re.Match[str]) -> Number | None:
    """Return the value of a NUMERAL match; None for an ellipsis without a period or an exponent out of range."""
    if match["head"] is not None:
        return _repeating(match["head"], match["over"] or match["dot"] or match["paren"])
    if match["dots"] is not None:
        return _with_ellipsis(match["dots"])
    text = match["plain"].replace(",", "").replace(" ", "")
    whole, point, decimals = text.partition(".")
    number = Number(Fraction(int(whole + decimals or "0"), 10 ** len(decimals)), len(decimals) if point else None)
    return number if match["exponent"] is None else scaled(number, int(match["exponent"]))


def _repeating(head: str, period: str) -> Number:
    whole, _, start = head.partition(".")
    nines = (10 ** len(period) - 1) * 10 ** len(start)
    return Number(Fraction(int(whole + start or "0"), 10 ** len(start)) + Fraction(int(period), nines))


def _with_ellipsis(text: str) -> Number | None:
    """Return 1/3 for ``0.333...``: the shortest period that fills the end of the decimals at least twice.

    A single digit must stand three times (``1.414...`` is no repeating decimal).
    """
    whole, _, decimals = text.partition(".")
    # Periods up to 12 digits: a longer one is never written out twice.
    for size in range(1, min(12, len(decimals) // 2) + 1):
        period = decimals[-size:]
        times = 3 if size == 1 else 2
        if decimals.endswith(period * times):
            return _repeating(f"{whole}.{decimals[: -size * times]}", period)
    return None


def read_based(normal: str) -> tuple[Fraction, int] | None:
    """Return value and base of ``1010_2`` or ``1010_{\\text{two}}``; None when no base is given."""
    sign, body = (-1, normal[1:]) if normal.startswith("-") else (1, normal)
    match = BASED.match(body.replace(" ", "").replace("base", "base ") if "base" in body else body)
    if match is None:
        return None
    base = int(match.group(2)) if match.group(2).isdigit() else BASE_WORDS.get(match.group(2), 0)
    if not 2 <= base <= 16:
        return None
    try:
        return Fraction(sign * int(match.group(1), base)), base
    except ValueError:
        return None  # a digit that the base does not have: 129_8 is a variable or a mistake
