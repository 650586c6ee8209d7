r"""Compares sets of real numbers as unions of intervals and points: ``1<x<2`` is the set ``(1,2)``.

An end may contain letters (``(a,\infty)``). Two such sets are the same when they agree for drawn values of the
letters. Values for which one of them is no set, since its ends are the wrong way round, decide nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.compare.linear import CLOSENESS, absolute_side, difference, line_of
from rlserve.verifiers.math.compare.scalars import ScalarComparer
from rlserve.verifiers.math.read.names import is_variable
from rlserve.verifiers.math.read.shapes import Group, NamedSet, Relation, Scalar, Shape, Union
from rlserve.verifiers.math.tree import Node, Symbol, negated, symbols

INFINITY = Symbol("infty")
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
MAX_LETTERS = 5
"""Letters in ends. Any value of this size will do: the orders of size among them grow with its factorial."""
NUM_DRAWS = 48
"""Draws of values for the letters. Any value of this size will do: ``a < b < c`` holds for one draw in six."""
MIN_POINTS = 3
"""Draws that must decide. Any value of this size will do: two sets that differ agree at almost no draw."""


@dataclass(frozen=True, slots=True, order=True)
class End:
    """One end of an interval, ordered along the line: ``side`` is -1 just before the value, 1 just after it.

    Example: ``[1, 2)`` goes from ``End(0, 1, -1)`` to ``End(0, 2, -1)``; the point 1 from just before to just after 1.
    """

    infinite: int
    """-1 or 1 at an infinity, else 0. The first field, so that infinities sort before and behind all values."""
    value: Fraction
    side: int


Pieces = list[tuple[End, End]]
# Value and side of an infinite end do not matter, but must be the same everywhere: ends are compared field by field.
MINUS_INFINITY, PLUS_INFINITY = End(-1, Fraction(0), 0), End(1, Fraction(0), 0)
LINE: Pieces = [(MINUS_INFINITY, PLUS_INFINITY)]


def same_sets(gold: Shape, answer: Shape, comparer: ScalarComparer) -> bool | None:
    """True when both contain the same reals; None when one is no set of reals that we can read."""
    letters = end_letters(gold) | end_letters(answer)
    names = [condition_variable(shape, letters) for shape in (gold, answer)]
    if all(names) and names[0] != names[1]:
        return False  # conditions about different variables
    letters = (letters | _condition_letters(gold) | _condition_letters(answer)) - {name for name in names if name}
    readers = [_Reader(comparer, name) for name in names]
    if not letters:
        left, right = readers[0].pieces(gold, {}), readers[1].pieces(answer, {})
        return None if left is None or right is None else same_pieces(left, right)
    decided = 0
    for point in _draws(sorted(letters)):
        left, right = readers[0].pieces(gold, point), readers[1].pieces(answer, point)
        if not left or not right:
            continue
        if not same_pieces(left, right):
            return False
        decided += 1
    return True if decided >= MIN_POINTS else None


def merged(pieces: Iterable[tuple[End, End]]) -> Pieces:
    """Return the pieces in order, with touching ones joined."""
    result: Pieces = []
    for low, high in sorted(pieces):
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return result


def same_pieces(first: Pieces, second: Pieces) -> bool:
    """True when both contain the same reals; ends are compared to 40 digits."""
    if len(first) != len(second):
        return False
    ends = zip((e for piece in first for e in piece), (e for piece in second for e in piece), strict=True)
    return all(a.infinite == b.infinite and a.side == b.side and abs(a.value - b.value) <= CLOSENESS for a, b in ends)


def intersected(first: Pieces, second: Pieces) -> Pieces:
    """Return the reals that are in both."""
    pairs = [(max(a[0], b[0]), min(a[1], b[1])) for a in first for b in second]
    return merged((low, high) for low, high in pairs if low < high)


def end_letters(shape: Shape) -> frozenset[str]:
    """Return the letters in the ends of intervals and in the points of sets."""
    if isinstance(shape, Scalar):
        return symbols(shape.node)
    if isinstance(shape, Relation):
        return end_letters(shape.sides[1]) if shape.ops == ("in",) else frozenset()
    parts = _parts(shape)
    return frozenset().union(*map(end_letters, parts)) if parts else frozenset()


def condition_variable(shape: Shape, letters: frozenset[str]) -> str | None:
    """Return the variable of the relations in ``shape``, preferably none of ``letters``; None without one."""
    if isinstance(shape, Relation):
        return _variable_of(shape, letters)
    found = {condition_variable(part, letters) for part in _parts(shape)} - {None}
    return found.pop() if len(found) == 1 else None


def _parts(shape: Shape) -> tuple[Shape, ...]:
    if isinstance(shape, Group):
        return shape.items
    if isinstance(shape, Union):
        return shape.parts
    return shape.without if isinstance(shape, NamedSet) else ()


def _variable_of(relation: Relation, letters: frozenset[str]) -> str | None:
    sides = [side.node for side in relation.sides if isinstance(side, Scalar)]
    if relation.ops == ("in",):
        sides = sides[:1]
    if len(sides) == 3:
        sides = [sides[1], sides[0], sides[2]]  # "a < x < b": the variable stands in the middle
    single = [side.name for side in sides if isinstance(side, Symbol) and symbols(side)]
    names = single + sorted(frozenset().union(*map(symbols, sides)) - set(single))
    return next((name for name in names if name not in letters), names[0] if names else None)


def _condition_letters(shape: Shape) -> frozenset[str]:
    if isinstance(shape, Relation):
        return frozenset().union(*(symbols(side.node) for side in shape.sides if isinstance(side, Scalar)))
    parts = _parts(shape)
    return frozenset().union(*map(_condition_letters, parts)) if parts else frozenset()


def _draws(letters: list[str]) -> Iterator[Mapping[str, Fraction]]:
    """Yield values for the letters, in every order of size; nothing for more than ``MAX_LETTERS``."""
    if len(letters) > MAX_LETTERS:
        return
    # From -6.9 to 12.9. Both moduli are primes, so that a letter is almost never a fraction that an answer contains.
    for index in range(NUM_DRAWS):
        yield {
            name: Fraction(
                int.from_bytes(hashlib.sha256(f"{index} {name}".encode()).digest()[:4], "big") % 19_997 - 7_000, 1_009
            )
            for name in letters
        }


class _Reader:
    """Reads shapes as pieces of the line, with conditions about one variable."""

    def __init__(self, comparer: ScalarComparer, variable: str | None) -> None:
        self._comparer = comparer
        self._variable = variable

    def pieces(self, shape: Shape, point: Mapping[str, Fraction]) -> Pieces | None:
        """Return the set as disjoint pieces in order; None when the shape is no set of reals."""
        if isinstance(shape, Union):
            parts = [self.pieces(part, point) for part in shape.parts]
            known = [part for part in parts if part is not None]
            return merged(piece for part in known for piece in part) if len(known) == len(parts) else None
        if isinstance(shape, NamedSet):
            return self._line_without(shape, point)
        if isinstance(shape, Relation):
            return self._of_relation(shape, point)
        return self._of_group(shape, point) if isinstance(shape, Group) else None

    def _end(self, node: Node, point: Mapping[str, Fraction], *, side: int) -> End | None:
        if node == INFINITY:
            return PLUS_INFINITY
        if node == negated(INFINITY):
            return MINUS_INFINITY
        value = self._comparer.real_value(node, point)
        return None if value is None else End(0, value, side)

    def _of_group(self, group: Group, point: Mapping[str, Fraction]) -> Pieces | None:
        if not group.brackets and group.joiner in ("or", "and", "cap", ","):
            return self._of_list(group, point)
        nodes = [item.node for item in group.items if isinstance(item, Scalar) and item.unit is None]
        if len(nodes) != len(group.items):
            return None
        if group.brackets == "{}":
            points = [(self._end(n, point, side=-1), self._end(n, point, side=1)) for n in nodes]
            known = [(low, high) for low, high in points if low is not None and high is not None]
            return merged(known) if len(known) == len(points) else None
        if len(nodes) != 2 or group.left not in ("(", "[") or group.right not in (")", "]"):
            return None
        low = self._end(nodes[0], point, side=-1 if group.left == "[" else 1)
        high = self._end(nodes[1], point, side=1 if group.right == "]" else -1)
        return [(low, high)] if low is not None and high is not None and low < high else None

    def _of_list(self, group: Group, point: Mapping[str, Fraction]) -> Pieces | None:
        """Return the union for "or"; for "and" and commas the intersection, unless it is empty or of intervals.

        ``x<1, x>2`` means either, ``x>1, x<2`` both, and ``(1,2), (3,4)`` is a union in either reading.
        """
        items = _with_repeated(group.items)
        if not all(isinstance(item, Relation | Union | Group | NamedSet) for item in items):
            return None
        known = [part for part in (self.pieces(item, point) for item in items) if part is not None]
        if len(known) != len(items) or not known:
            return None
        if all(isinstance(item, Relation) and item.ops == ("!=",) for item in items):
            return _common(known)
        union = merged(piece for part in known for piece in part)
        if group.joiner == "or":
            return union
        common = _common(known)
        are_sets = all(isinstance(item, Group | Union) for item in items)
        return union if (are_sets and group.joiner != "cap") or (group.joiner == "," and not common) else common

    def _line_without(self, shape: NamedSet, point: Mapping[str, Fraction]) -> Pieces | None:
        if shape.name != "reals":
            return None
        line = LINE
        for item in shape.without:
            value = self._comparer.real_value(item.node, point) if isinstance(item, Scalar) else None
            if value is None:
                return None
            line = intersected(line, _all_but(value))
        return line

    def _of_relation(self, relation: Relation, point: Mapping[str, Fraction]) -> Pieces | None:
        """Read a variable between constants (``1<x<2``, ``x\\neq 3``) or in a set (``x\\in(1,2)``)."""
        if relation.ops == ("in",):
            return self.pieces(relation.sides[1], point) if is_variable(relation.sides[0]) else None
        result: Pieces | None = LINE
        for left, op, right in zip(relation.sides, relation.ops, relation.sides[1:], strict=False):
            one = self._half_line(left, op, right, point)
            if one is None or result is None:
                return None
            result = intersected(result, one)
        return result

    def _half_line(self, left: Shape, op: str, right: Shape, point: Mapping[str, Fraction]) -> Pieces | None:
        name = self._variable
        if op not in FLIPPED or name is None or not isinstance(left, Scalar) or not isinstance(right, Scalar):
            return None
        if left.unit is not None or right.unit is not None:
            return None
        # "x < \infty" limits nothing; "x > \infty" is no condition that anybody means.
        for side, other, turned in ((left.node, right.node, op), (right.node, left.node, FLIPPED[op])):
            if other in (INFINITY, negated(INFINITY)) and side == Symbol(name):
                below = other == INFINITY
                return LINE if turned == ("<" if below else ">") else None
        if (absolute := absolute_side(left.node, right.node, name)) is not None:
            inside, constant, swapped = absolute
            return self._absolute(inside, FLIPPED[op] if swapped else op, constant, point)
        return self._linear(difference(left.node, right.node), op, point)

    def _linear(self, node: Node, op: str, point: Mapping[str, Fraction]) -> Pieces | None:
        """Return where ``node``, linear in the variable, is below, above or equal to 0."""

        def evaluate(formula: Node, value: Fraction) -> Fraction | None:
            return self._comparer.real_value(formula, {**point, str(self._variable): value})

        line = line_of(node, evaluate)
        if line is None:
            return None
        slope, start = line
        value = -start / slope
        below, above = End(0, value, -1), End(0, value, 1)
        return {
            "<": [(MINUS_INFINITY, below)],
            "<=": [(MINUS_INFINITY, above)],
            ">": [(above, PLUS_INFINITY)],
            ">=": [(below, PLUS_INFINITY)],
            "=": [(below, above)],
            "!=": _all_but(value),
        }[op if slope > 0 else FLIPPED[op]]

    def _absolute(self, inside: Node, op: str, constant: Node, point: Mapping[str, Fraction]) -> Pieces | None:
        """Solve ``|inside| op constant``: the values between two bounds, or those outside of them."""
        upper = self._linear(difference(inside, constant), op, point)
        lower = self._linear(difference(negated(inside), constant), op, point)
        size = self._comparer.real_value(constant, point)
        if upper is None or lower is None or size is None or size <= 0:
            return None
        return intersected(upper, lower) if op in ("<", "<=", "!=") else merged(upper + lower)


def _common(parts: list[Pieces]) -> Pieces:
    common = parts[0]
    for part in parts[1:]:
        common = intersected(common, part)
    return common


def _all_but(value: Fraction) -> Pieces:
    return [(MINUS_INFINITY, End(0, value, -1)), (End(0, value, 1), PLUS_INFINITY)]


def _with_repeated(items: tuple[Shape, ...]) -> list[Shape]:
    """Write out the second condition of ``x \\neq 1, 2``."""
    result: list[Shape] = []
    for item in items:
        before = result[-1] if result else None
        if isinstance(item, Scalar) and isinstance(before, Relation) and before.ops == ("!=",):
            item = Relation((before.sides[0], item), before.ops)
        result.append(item)
    return result
