"""Writes an answer in other notations, and near misses of it; the construction determines the right verdict."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

# Numbers of up to 12 digits: the arithmetic below stays exact and short.
NUMERAL = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,8})?|-?[0-9]{1,9}/[1-9][0-9]{0,8}")
LETTERS = "abcdefgh"
Writer = Callable[[Fraction, random.Random], str | None]


@dataclass(frozen=True, slots=True)
class Variant:
    """A gold answer in another notation, or another answer that looks like it."""

    kind: str
    text: str
    same: bool


def variants(answer: str, draw: random.Random) -> Iterator[Variant]:
    """Variants of ``answer``: many of a number; of any other formula only those that are right whatever it means."""
    plain = answer.replace(",", "") if re.fullmatch(r"-?[0-9]{1,3}(?:,[0-9]{3})+", answer) else answer
    if NUMERAL.fullmatch(plain):
        yield from _of_number(Fraction(plain), draw)
        return
    for kind, text in _wrapped(answer):
        yield Variant(kind, text, same=True)
    yield Variant("near: a second answer", f"{answer}, 7919", same=False)
    yield Variant("near: or another", f"{answer} \\text{{ or }} 7919", same=False)
    yield Variant("near: another number", "7919", same=False)


def _of_number(value: Fraction, draw: random.Random) -> Iterator[Variant]:
    for kind, write in SAME.items():
        text = write(value, draw)
        if text is not None:
            yield Variant(kind, text, same=True)
    for kind, text in _wrapped(_plain(value)):
        yield Variant(kind, text, same=True)
    for kind, write in OTHER.items():
        text = write(value, draw)
        if text is not None:
            yield Variant(f"near: {kind}", text, same=False)


def _wrapped(text: str) -> Iterator[tuple[str, str]]:
    """The text with decorations that do not change its meaning."""
    yield "as it is", text
    yield "in a box", f"\\boxed{{{text}}}"
    yield "in dollars", f"${text}$"
    yield "with a full stop", f"{text}."


def _plain(value: Fraction) -> str:
    decimal = _decimal(value)
    return decimal if decimal is not None else f"{value.numerator}/{value.denominator}"


def _decimal(value: Fraction) -> str | None:
    """The exact decimal notation; None when it has more than 8 places."""
    scale = 10**8
    if (value * scale).denominator != 1:
        return None
    digits = f"{abs(int(value * scale)):09d}"
    text = f"{digits[:-8]}.{digits[-8:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


def _whole(write: Callable[[int, random.Random], str | None]) -> Writer:
    """A notation that exists only for integers."""
    return lambda value, draw: write(int(value), draw) if value.denominator == 1 else None


def _fraction(value: Fraction, factor: int = 1) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator) * factor}}}{{{value.denominator * factor}}}"


def _mixed(value: Fraction, draw: random.Random) -> str | None:
    whole, rest = divmod(abs(value), 1)
    if not rest or not whole or value < 0:
        return None
    return f"{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}"


def _scientific(value: int, draw: random.Random) -> str | None:
    digits = str(abs(value))
    if value <= 0 or len(digits) < 2:
        return None
    return f"{digits[0]}.{digits[1:]} \\times 10^{{{len(digits) - 1}}}"


def _sum(value: Fraction, draw: random.Random) -> str:
    part = draw.randint(1, 99)
    return f"{part} + ({_plain(value - part)})"


def _full_width(value: int, draw: random.Random) -> str:
    return f"\uff08{value}\uff09".replace("-", "\uff0d")


# Notations that models use, each with the value unchanged. None where a notation does not fit a value.
SAME: dict[str, Writer] = {
    "thousands": _whole(lambda n, draw: f"{n:,}" if abs(n) >= 1000 else None),
    "thousands in braces": _whole(lambda n, draw: f"{n:,}".replace(",", "{,}") if abs(n) >= 1000 else None),
    "zero decimals": _whole(lambda n, draw: f"{n}.00"),
    "plus sign": lambda value, draw: f"+{_plain(value)}" if value > 0 else None,
    "Unicode minus": lambda value, draw: _plain(value).replace("-", "\u2212") if value < 0 else None,
    "fraction": lambda value, draw: _fraction(value, draw.randint(2, 9)),
    "fraction of display": lambda value, draw: _fraction(value).replace("frac", "dfrac"),
    "slash": lambda value, draw: f"{value.numerator * 3}/{value.denominator * 3}",
    "mixed number": _mixed,
    "scientific": _whole(_scientific),
    "percent": lambda value, draw: f"{d}\\%" if (d := _decimal(value * 100)) is not None else None,
    "sum": _sum,
    "product": _whole(lambda n, draw: f"{n // 2} \\cdot 2" if n % 2 == 0 and n > 0 else None),
    "quotient": lambda value, draw: f"({_plain(value * 6)})/6" if _decimal(value * 6) else None,
    "variable": lambda value, draw: f"x = {_plain(value)}",
    "named": lambda value, draw: f"\\text{{Total}} = {_plain(value)}",
    "name of two letters": lambda value, draw: f"AB = {_plain(value)}",
    "currency": _whole(lambda n, draw: f"\\${n:,}" if n >= 0 else None),
    "unit": lambda value, draw: f"{_plain(value)} \\text{{ cm}}",
    "plain unit": lambda value, draw: f"{_plain(value)} kilometers",
    "unknown unit": _whole(lambda n, draw: f"{n} apples"),
    "square unit": lambda value, draw: f"{_plain(value)}\\text{{ cm}}^2",
    "text": lambda value, draw: f"\\text{{{_plain(value)}}}",
    "bold": lambda value, draw: f"\\mathbf{{{_plain(value)}}}",
    "old bold": lambda value, draw: f"{{\\bf {_plain(value)}}}",
    "markdown": lambda value, draw: f"**{_plain(value)}**",
    "quoted": lambda value, draw: f'"{_plain(value)}"',
    "spacing": lambda value, draw: f"\\;{_plain(value)}\\,",
    "true equation": lambda value, draw: f"{_sum(value, draw)} = {_plain(value)}",
    "approximate sign": lambda value, draw: f"\\approx {_plain(value)}",
    "full width": _whole(_full_width),
    "Chinese": _whole(lambda n, draw: f"\u7b54\u6848\u662f{n}\u3002" if n >= 0 else None),
    "Chinese counter": _whole(lambda n, draw: f"{n}\u4e2a" if n >= 0 else None),
    "hundreds": _whole(lambda n, draw: f"{n // 100}\\text{{ hundred}}" if n > 0 and n % 100 == 0 else None),
    "dozens": _whole(lambda n, draw: f"{n // 12} dozen" if n > 0 and n % 12 == 0 else None),
    "choice": lambda value, draw: f"({draw.choice('ABCDE')}) {_plain(value)}" if value > 0 else None,
    "root": _whole(lambda n, draw: f"\\sqrt{{{n * n}}}" if n > 0 else None),
    "member": lambda value, draw: f"x \\in \\{{{_plain(value)}\\}}",
    "sum sign": _whole(lambda n, draw: f"\\sum_{{k=1}}^{{{n}}} 1" if 0 < n < 60 and draw.random() < 0.2 else None),
}
# Answers with another value, or with none, that a careless judge would pass.
OTHER: dict[str, Writer] = {
    "one more": lambda value, draw: _plain(value + 1),
    "other sign": lambda value, draw: _plain(-value) if value else None,
    "a digit more": _whole(lambda n, draw: f"{n}{draw.randint(0, 9)}" if n else None),
    "a tiny error": lambda value, draw: f"{_plain(value)} + 10^{{-12}}",
    "a second answer": lambda value, draw: f"{_plain(value)}, {_plain(value + draw.randint(1, 9))}",
    "or another": lambda value, draw: f"{_plain(value)} \\text{{ or }} {_plain(value + 1)}",
    "a set of two": lambda value, draw: f"\\{{{_plain(value)}, {_plain(value + 2)}\\}}",
    "a range": lambda value, draw: f"{_plain(value)} \\text{{ to }} {_plain(value + 3)}",
    "a bound": lambda value, draw: f"x > {_plain(value)}",
    "another value": lambda value, draw: f"x = {_plain(value + 1)}",
    "not that": lambda value, draw: f"x \\ne {_plain(value)}",
    "to be solved": lambda value, draw: f"2x = {_plain(value)}" if value else None,
    "false equation": lambda value, draw: f"{_plain(value + 1)} = {_plain(value)}",
    "approximately other": lambda value, draw: f"\\approx {_plain(value + 1)}",
    "hundred": lambda value, draw: f"{_plain(value)}\\text{{ hundred}}" if value else None,
    "dozen": lambda value, draw: f"{_plain(value)} dozen" if value else None,
    "squared": lambda value, draw: f"{_plain(value)}\\text{{ squared}}" if value not in (0, 1) and value > 0 else None,
    "thirds": lambda value, draw: f"{_plain(value)}\\text{{ thirds}}" if value else None,
    "at most": lambda value, draw: f"{_plain(value)}\\text{{ at most}}",
    "at least": lambda value, draw: f"\\text{{at least }} {_plain(value)}",
    "remainder": lambda value, draw: f"{_plain(value)}\\text{{ remainder }} {draw.randint(1, 9)}",
    "plus": lambda value, draw: f"{_plain(value)}\\text{{ plus }} {draw.randint(1, 9)}",
    "percent": lambda value, draw: f"{_plain(value)}\\%" if value else None,
    "inverse": lambda value, draw: _fraction(1 / value) if value not in (0, 1, -1) else None,
    "factorial": _whole(lambda n, draw: f"{n}!" if 2 < n < 60 else None),
    "power": _whole(lambda n, draw: f"{n}^2" if n > 1 else None),
    "ten thousands": _whole(lambda n, draw: f"{n}\u4e07" if n > 0 else None),
    "letter": lambda value, draw: f"{_plain(value)}x" if value else None,
    "imaginary": lambda value, draw: f"{_plain(value)}i" if value else None,
    "time of day": _whole(lambda n, draw: f"{n}:30" if 0 < n < 13 else None),
    "interval": lambda value, draw: f"({_plain(value)}, {_plain(value + 1)})",
    "split digits": _whole(lambda n, draw: f"{str(n)[0]} {str(n)[1:]}" if 10 <= n < 100 else None),
    "another choice": lambda value, draw: f"({draw.choice('ABCDE')}) {_plain(value + 1)}" if value > 0 else None,
    "sum sign": _whole(lambda n, draw: f"\\sum_{{k=1}}^{{{n}}} 2" if 0 < n < 60 and draw.random() < 0.2 else None),
}
