"""Inequalities in one variable that we solve: a linear side, or the absolute value of one, against constants."""

from collections.abc import Callable
from fractions import Fraction

from rlserve.verifiers.math.tree import Apply, Node, negated, symbols

Evaluate = Callable[[Node, Fraction], Fraction | None]
"""The real value of a formula with the variable at a value; None when it has none."""
CLOSENESS = Fraction(1, 10**40)
PROBES = (Fraction(0), Fraction(1), Fraction(7, 3), Fraction(-17, 5))


def difference(left: Node, right: Node) -> Node:
    """``left - right``."""
    return Apply("add", (left, negated(right)))


def line_of(node: Node, evaluate: Evaluate) -> tuple[Fraction, Fraction] | None:
    """Slope and value at 0 of a formula that is linear in the variable, slope not 0; None when it is not."""
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
    """Inside of an absolute value, the constant on the other side, and whether the sides were swapped; or None."""
    for side, other, swapped in ((left, right, False), (right, left, True)):
        if isinstance(side, Apply) and side.op == "abs" and name in symbols(side) and name not in symbols(other):
            return side.args[0], other, swapped
    return None
