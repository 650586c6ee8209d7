"""Recognises inequalities that we can solve: a side linear in one variable, or its absolute value, and a constant."""

from collections.abc import Callable
from fractions import Fraction

from rlserve.verifiers.math.tree import Apply, Node, negated, symbols

Evaluate = Callable[[Node, Fraction], Fraction | None]
"""Returns the real value of a formula with the variable at a value; None when there is none."""
CLOSENESS = Fraction(1, 10**40)
"""Of two values: values are computed to about 60 digits (``scalars.BITS``), of which a formula may cost some."""
# 0 and 1 give the line, the others check it. Any two fractions will do that no formula of an exercise has as roots.
PROBES = (Fraction(0), Fraction(1), Fraction(7, 3), Fraction(-17, 5))


def difference(left: Node, right: Node) -> Node:
    """Return ``left - right``."""
    return Apply("add", (left, negated(right)))


def line_of(node: Node, evaluate: Evaluate) -> tuple[Fraction, Fraction] | None:
    """Return slope (not 0) and value at 0 of a formula that is linear in the variable; None for other formulas."""
    values: list[Fraction] = []
    for probe in PROBES:
        value = evaluate(node, probe)
        if value is None:
            return None
        values.append(value)
    slope, start = values[1] - values[0], values[0]
    on_line = all(abs(start + slope * probe - value) <= CLOSENESS for probe, value in zip(PROBES, values, strict=True))
    return (slope, start) if on_line and abs(slope) > CLOSENESS else None


def absolute_side(left: Node, right: Node, name: str) -> tuple[Node, Node, bool] | None:
    """Return the inside of an absolute value, the constant on the other side, and whether they are swapped; or None."""
    for side, other, swapped in ((left, right, False), (right, left, True)):
        if isinstance(side, Apply) and side.op == "abs" and name in symbols(side) and name not in symbols(other):
            return side.args[0], other, swapped
    return None
