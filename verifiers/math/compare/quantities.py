"""Compares values with units: both must measure the same thing. One side may leave its unit out, except percent."""

from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.compare.scalars import Comparison, ScalarComparer
from rlserve.verifiers.math.notation.units import Unit
from rlserve.verifiers.math.read.shapes import Scalar
from rlserve.verifiers.math.tree import DEGREE, Apply, Node, Number

ANGLE = (("angle", 1),)


@dataclass(frozen=True, slots=True)
class Policy:
    """Choices about notations that people read differently."""

    percent: str = "strict"
    """``strict``: 50% is 0.5 and not 50. ``lenient``: it is either."""


class QuantityComparer:
    """Compares two formulas with their units."""

    def __init__(self, scalars: ScalarComparer, policy: Policy) -> None:
        self._scalars = scalars
        self._policy = policy

    def compare(self, gold: Scalar, answer: Scalar) -> Comparison:
        """Decide ``gold == answer``, after conversion when both have a unit."""
        left, right = gold.unit, answer.unit
        if left is not None and right is not None:
            if not left.measures_like(right):
                return Comparison(False, "another unit")
            return self._scalars.compare(_scaled(gold.node, left), _scaled(answer.node, right))
        if any(unit is not None and unit.percent for unit in (left, right)):
            return self._percent(gold, answer)
        plain = self._scalars.compare(gold.node, answer.node)
        # 90 degrees against 90 is equal as it stands; against \pi/2, without a unit, after conversion to radians.
        if plain.equal or not any(unit is not None and unit.dimension == ANGLE for unit in (left, right)):
            return plain
        return self._scalars.compare(_radians(gold), _radians(answer))

    def _percent(self, gold: Scalar, answer: Scalar) -> Comparison:
        """Compare a percentage with a plain number."""
        if self._policy.percent == "lenient" and self._scalars.compare(gold.node, answer.node).equal:
            return Comparison(True, "percent (lenient)")
        return Comparison(self._scalars.compare(_hundredth(gold), _hundredth(answer)).equal, "percent")


def _scaled(node: Node, unit: Unit) -> Node:
    """Return the value in base units."""
    if unit.factor == 1:
        return node  # a decimal keeps its places, by which rounding is allowed
    if isinstance(node, Number):
        return Number(node.value * unit.factor)
    return Apply("mul", (node, Number(unit.factor)))


def _hundredth(scalar: Scalar) -> Node:
    return scalar.node if scalar.unit is None else Apply("div", (scalar.node, Number(Fraction(100))))


def _radians(scalar: Scalar) -> Node:
    in_degrees = scalar.unit is not None and scalar.unit.dimension == ANGLE
    return Apply("mul", (scalar.node, DEGREE)) if in_degrees else scalar.node
