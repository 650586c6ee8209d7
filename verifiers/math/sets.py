r"""Sets of real numbers as unions of intervals and points, for answers such as ``1<x<2`` and ``(1,2)``.

An end may hold letters (``(a,\infty)``). Two such sets are the same when they are at points that give each letter a
value; a point at which one of them is no set (its ends are the wrong way round) says nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.linear import CLOSENESS, absolute_side, difference, line_of
from rlserve.verifiers.math.names import is_variable
from rlserve.verifiers.math.scalars import ScalarComparer
from rlserve.verifiers.math.shapes import Group, NamedSet, Relation, Scalar, Shape, Union
from rlserve.verifiers.math.tree import Node, Symbol, negated, symbols

INFINITY = Symbol("infty")
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
MAX_LETTERS = 5
NUM_DRAWS = 48
MIN_POINTS = 3


@dataclass(frozen=True, slots=True, order=True)
class End:
    """One end of an interval, ordered along the line: ``side`` is -1 just before the value, 1 just after it."""

    infinite: int
    """-1 or 1 at an infinity, else 0."""
    value: Fraction
    side: int


Pieces = list[tuple[End, End]]
MINUS_INFINITY, PLUS_INFINITY = End(-1, Fraction(0), 0), End(1, Fraction(0), 0)
LINE: Pieces = [(MINUS_INFINITY, PLUS_INFINITY)]


def same_sets(gold: Shape, answer: Shape, comparer: ScalarComparer) -> bool | None:
    """Whether both hold the same reals; None when one is no set of reals that we read."""
    letters = end_letters(gold) | end_letters(answer)
    names = [condition_variable(shape, letters) for shape in (gold, answer)]
    if all(names) and names[0] != names[1]:
        return False
    letters = (letters | _condition_letters(gold) | _condition_letters(answer)) - {name for name in names if name}
    readers = [_Reader(comparer, name) for name in names]
    if not letters:
        left, right = readers[0].pieces(gold, {}), readers[1].pieces(answer, {})
        return None if left is None or right is None else same_pieces(left, right)
    said = 0
    for point in _draws(sorted(letters)):
        left, right = readers[0].pieces(gold, point), readers[1].pieces(answer, point)
        if not left or not right:
            continue
        if not same_pieces(left, right):
            return False
        said += 1
    return True if said >= MIN_POINTS else None


def merged(pieces: Iterable[tuple[End, End]]) -> Pieces:
    """Pieces in order, with those that touch joined."""
    result: Pieces = []
    for low, high in sorted(pieces):
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return result


def same_pieces(first: Pieces, second: Pieces) -> bool:
    """True when both hold the same reals, ends compared to 40 digits."""
    if len(first) != len(second):
        return False
    ends = zip((e for piece in first for e in piece), (e for piece in second for e in piece), strict=True)
    return all(a.infinite == b.infinite and a.side == b.side and abs(a.value - b.value) <= CLOSENESS for a, b in ends)


def intersected(first: Pieces, second: Pieces) -> Pieces:
    """Reals in both."""
    pairs = [(max(a[0], b[0]), min(a[1], b[1])) for a in first for b in second]
    return merged((low, high) for low, high in pairs if low < high)


def end_letters(shape: Shape) -> frozenset[str]:
    """Letters in the ends of intervals and in the points of sets."""
    if isinstance(shape, Scalar):
        return symbols(shape.node)
    if isinstance(shape, Relation):
        return end_letters(shape.sides[1]) if shape.ops == ("in",) else frozenset()
    parts = _parts(shape)
    return frozenset().union(*map(end_letters, parts)) if parts else frozenset()


def condition_variable(shape: Shape, letters: frozenset[str]) -> str | None:
    """The variable that the relations in ``shape`` are about: preferably none of ``letters``; None without one."""
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
        sides = [sides[1], sides[0], sides[2]]
    single = [side.name for side in sides if isinstance(side, Symbol) and symbols(side)]
    names = single + sorted(frozenset().union(*map(symbols, sides)) - set(single))
    return next((name for name in names if name not in letters), names[0] if names else None)


def _condition_letters(shape: Shape) -> frozenset[str]:
    if isinstance(shape, Relation):
        return frozenset().union(*(symbols(side.node) for side in shape.sides if isinstance(side, Scalar)))
    parts = _parts(shape)
    return frozenset().union(*map(_condition_letters, parts)) if parts else frozenset()


def _draws(letters: list[str]) -> Iterator[Mapping[str, Fraction]]:
    """Values for the letters, in every order of size; none for more letters than are tried."""
    if len(letters) > MAX_LETTERS:
        return
    for index in range(NUM_DRAWS):
        yield {
            name: Fraction(
                int.from_bytes(hashlib.sha256(f"{index} {name}".encode()).digest()[:4], "big") % 19_997 - 7_000, 1_009
            )
            for name in letters
        }


class _Reader:
    """Shapes as pieces of the line, with conditions about one variable."""

    def __init__(self, comparer: ScalarComparer, variable: str | None) -> None:
        self._comparer = comparer
        self._variable = variable

    def pieces(self, shape: Shape, point: Mapping[str, Fraction]) -> Pieces | None:
        """The set as disjoint pieces in order, or None when the shape is no set of reals."""
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
        """A union for "or"; for "and" and commas what is in all, unless these are intervals or nothing is in all.

        ``x<1, x>2`` means either, ``x>1, x<2`` both.
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
        """A variable between constants (``1<x<2``, ``x\\neq 3``) or in a set (``x\\in(1,2)``)."""
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
        for side, other, turned in ((left.node, right.node, op), (right.node, left.node, FLIPPED[op])):
            if other in (INFINITY, negated(INFINITY)) and side == Symbol(name):
                below = other == INFINITY
                return LINE if turned == ("<" if below else ">") else None
        if (absolute := absolute_side(left.node, right.node, name)) is not None:
            inside, constant, swapped = absolute
            return self._absolute(inside, FLIPPED[op] if swapped else op, constant, point)
        return self._linear(difference(left.node, right.node), op, point)

    def _linear(self, node: Node, op: str, point: Mapping[str, Fraction]) -> Pieces | None:
        """Where ``node`` (linear in the variable) is below, above or equal to 0."""

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
        """``|inside| op constant``: within or outside of two lines."""
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
    """``x \\neq 1, 2`` with its second condition written out."""
    result: list[Shape] = []
    for item in items:
        before = result[-1] if result else None
        if isinstance(item, Scalar) and isinstance(before, Relation) and before.ops == ("!=",):
            item = Relation((before.sides[0], item), before.ops)
        result.append(item)
    return result
