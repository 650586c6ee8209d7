"""Compares two formulas: exactly when both are rational, else by their values at several points.

Agreement at points drawn from both texts, to at least 30 digits more than any number in either formula, stands
for a proof: a formula that is not equal differs at almost every point. A point where only one side has a real value
decides nothing; so ``\\frac{x^2-1}{x-1}`` is ``x+1`` and ``|x|`` is not ``x``.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

from rlserve.verifiers.math.compare.evaluate import Approximator, TooLarge, Undefined, fold
from rlserve.verifiers.math.tree import Node, Number, spelled, symbols

NUM_POINTS = 8
"""Any value of this size will do: one point nearly decides, and roots or logarithms leave some of them undefined."""
MIN_DECIMALS = 6
"""A decimal of at least this many places is equal to every number that rounds to it. With fewer, 0.333 would be 1/3."""
MAX_MAGNITUDE = 4000
"""Bits. Formulas with larger or smaller values are compared exactly or not at all. Any value of this size will do: the
precision grows with it, up to 12,200 bits."""
BITS = 200
"""Precision of a value, 60 digits, of which half must agree: 30 digits are beyond any coincidence."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two formulas are equal, and the rule that decided."""

    equal: bool
    rule: str


class ScalarComparer:
    r"""Compares formulas; keeps its arithmetic context from one comparison to the next.

    Example::

        scalars = ScalarComparer()
        scalars.compare(parse(r"\sqrt {8}"), parse(r"2\sqrt {2}"))   # Comparison(equal=True, rule="value")
        scalars.compare(parse("(x+1)^2"), parse("x^2+1"))           # Comparison(equal=False, rule="values at points")
    """

    def __init__(self) -> None:
        self._approximator = Approximator()
        self._bits = BITS

    def compare(self, gold: Node, answer: Node) -> Comparison:
        """Decide ``gold == answer``. Never raises: undecidable formulas are unequal, and the rule is the reason."""
        try:
            return self._compare(fold(gold), fold(answer))
        except TooLarge:
            return Comparison(False, "too large to compute")
        except Undefined:
            return Comparison(False, "undefined")
        except RecursionError:
            return Comparison(False, "nested too deep")

    def _compare(self, gold: Node, answer: Node) -> Comparison:
        if isinstance(gold, Number) and isinstance(answer, Number):
            return Comparison(gold.value == answer.value or _rounds_to(gold, answer), "number")
        if gold == answer:
            return Comparison(True, "same expression")
        names = sorted(symbols(gold) | symbols(answer))
        if not names:
            return self._constants(gold, answer)
        return self._at_points(gold, answer, names)

    def real_value(self, node: Node, point: Mapping[str, Fraction] | None = None) -> Fraction | None:
        """Return the real value of a formula with its variables at ``point`` to 60 digits; None without one."""
        try:
            folded = fold(node)
            if isinstance(folded, Number):
                return folded.value
            number = self._approximator.value(folded, point or {}, bits=BITS)
        except (Undefined, TooLarge, RecursionError):
            return None
        return None if _imaginary(number) else _to_fraction(number)

    def approximates(self, decimal: Node, node: Node) -> bool:
        """True when the numeral ``decimal`` is ``node`` rounded (or cut) to the decimals that it shows."""
        folded, value = fold(decimal), self.real_value(node)
        if not isinstance(folded, Number) or value is None:
            return False
        places = decimal.places or 0 if isinstance(decimal, Number) else 0
        error, step = folded.value - value, Fraction(1, 10**places)
        # Rounded: at most half a step off. Cut: less than a step, and towards 0; an integer must be rounded.
        return abs(error) * 2 <= step or (abs(error) < step and abs(folded.value) < abs(value) and places > 0)

    def constant_ratio(self, first: Node, second: Node) -> Fraction | None:
        """Return the ``c`` of ``first == c * second`` at all points, ``c != 0``; None when there is no such number."""
        names = sorted(symbols(first) | symbols(second))
        if not names:
            return None
        ratios: list[Fraction] = []
        for point in _points(names, first, second):
            try:
                top = self._approximator.value(first, point, bits=2 * BITS)
                bottom = self._approximator.value(second, point, bits=2 * BITS)
            except (Undefined, TooLarge):
                continue
            # A side that is 0 here, rounding aside, gives no ratio.
            if _imaginary(top) or _imaginary(bottom) or abs(top) < 1e-30 or abs(bottom) < 1e-30:
                continue
            ratios.append(_to_fraction(top / bottom))
            if abs(ratios[-1] - ratios[0]) > abs(ratios[0]) / 10**40:
                return None
        return ratios[0] if len(ratios) >= 2 else None

    def _constants(self, gold: Node, answer: Node) -> Comparison:
        left, right = self._pair(gold, answer, {})
        if _agree(left, right, self._bits):
            return Comparison(True, "value")
        for literal, value in ((gold, right), (answer, left)):
            if isinstance(literal, Number) and literal.places is not None and not _imaginary(value):
                places = literal.places
                close = abs(_to_fraction(value) - literal.value) <= Fraction(1, 2 * 10**places)
                return Comparison(places >= MIN_DECIMALS and close, "rounded value")
        return Comparison(False, "value")

    def _at_points(self, gold: Node, answer: Node, names: list[str]) -> Comparison:
        # Integers only where no point of the first kind decided: at integers sin(pi n) and 0 agree by accident.
        for points in (_points(names, gold, answer), _integer_points(names)):
            real: list[bool] = []
            not_real: list[bool] = []
            for point in points:
                try:
                    left, right = self._pair(gold, answer, point)
                except Undefined:
                    continue
                if _imaginary(left) == _imaginary(right):
                    (not_real if _imaginary(left) else real).append(_agree(left, right, self._bits))
                if not all(real):
                    break
            # Real points decide where there are any: at complex ones the branches of roots and logarithms differ.
            agreements = real or not_real
            if agreements:
                return Comparison(len(agreements) >= 2 and all(agreements), "values at points")
        return Comparison(False, "undefined")

    def _pair(self, gold: Node, answer: Node, point: dict[str, Fraction]) -> tuple[Any, Any]:
        """Return both values at a point, with a precision above the size of every intermediate value."""
        approximator = self._approximator
        approximator.magnitude = 0
        # A cheap first pass measures the sizes: 10^{20} + 10^{-20} needs more bits than either of its terms.
        approximator.value(gold, point, bits=64)
        approximator.value(answer, point, bits=64)
        if approximator.magnitude > MAX_MAGNITUDE:
            raise TooLarge
        self._bits = BITS + 3 * approximator.magnitude
        return (
            approximator.value(gold, point, bits=self._bits),
            approximator.value(answer, point, bits=self._bits),
        )


def _points(names: list[str], *nodes: Node) -> Iterator[dict[str, Fraction]]:
    """Yield points that an author of the formulas cannot choose: they are drawn from a digest of both formulas."""
    salt = hashlib.sha256(" ".join(map(spelled, nodes)).encode()).digest()
    for index in range(NUM_POINTS):
        yield {name: _coordinate(salt, index, name) for name in names}


def _coordinate(salt: bytes, index: int, name: str) -> Fraction:
    """Draw a coordinate: positive in the first half of the points (roots and logarithms are real there), small in
    every third (arc functions are real there)."""
    draw = int.from_bytes(hashlib.sha256(salt + bytes([index]) + name.encode()).digest()[:8], "big")
    # From 0.2 to 4.2, or 0.045 to 0.95; 9973 is a prime, so that denominators share no factor with the draw.
    size = Fraction(draw % 9973 + 500, 11_000 if index % 3 == 0 else 2_500)
    return -size if index >= NUM_POINTS // 2 and draw >> 60 & 1 else size


def _integer_points(names: list[str]) -> Iterator[dict[str, Fraction]]:
    """Yield integer points, for formulas of whole numbers such as factorials."""
    for index in range(4):
        yield {name: Fraction(3 + 2 * index + place % 5) for place, name in enumerate(names)}


def _agree(left: Any, right: Any, bits: int) -> bool:
    """True when both agree to half of the computed bits, relative to the larger side when that is above 1."""
    difference = abs(left - right) / max(1, abs(left), abs(right))
    return bool(difference == 0 or mpmath.mag(difference) < -(bits // 2))


def _imaginary(value: Any) -> bool:
    """True when ``value`` is not real, rounding aside."""
    # 1e-25: far above the rounding error at BITS (1e-60), far below any imaginary part that a formula means.
    return bool(abs(value.imag) > max(1, abs(value)) * 1e-25)


def _to_fraction(value: Any) -> Fraction:
    """Return the real part of an approximation as an exact fraction."""
    # mpmath's own fields: a conversion through float or text would round.
    sign, mantissa, exponent, _ = value.real._mpf_
    size = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -size if sign else size


def _rounds_to(gold: Number, answer: Number) -> bool:
    """True when one side is a decimal of at least six places and the other rounds to it there."""
    usable = min((number.places for number in (gold, answer) if number.places is not None), default=0)
    scale = 10**usable
    return usable >= MIN_DECIMALS and round(gold.value * scale) == round(answer.value * scale)
