r"""Sets of real numbers as unions of intervals and points, for answers such as ``1<x<2`` and ``(1,2)``."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.scalars import ScalarComparer
from rlserve.verifiers.math.shapes import Group, NamedSet, Relation, Scalar, Shape, Union
from rlserve.verifiers.math.tree import Apply, Node, Symbol, negated, symbols

INFINITY = Symbol("infty")
CLOSENESS = Fraction(1, 10**40)
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


@dataclass(frozen=True, slots=True, order=True)
class End:
    """One end of an interval, ordered along the line: ``side`` is -1 just before the value, 1 just after it."""

    infinite: int
    """-1 or 1 at an infinity, else 0."""
    value: Fraction
    side: int


Pieces = list[tuple[End, End]]
MINUS_INFINITY, PLUS_INFINITY = End(-1, Fraction(0), 0), End(1, Fraction(0), 0)


def pieces_of(shape: Shape, comparer: ScalarComparer) -> Pieces | None:
    """The set as disjoint pieces in order, or None when the shape is no set of reals that we read."""
    if isinstance(shape, Union):
        parts = [pieces_of(part, comparer) for part in shape.parts]
        return merged(piece for part in parts if part is not None for piece in part) if None not in parts else None
    if isinstance(shape, NamedSet):
        return _line_without(shape, comparer)
    if isinstance(shape, Relation):
        return _of_relation(shape, comparer)
    if isinstance(shape, Group):
        return _of_group(shape, comparer)
    return None


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


def _end(node: Node, comparer: ScalarComparer, *, side: int) -> End | None:
    if node == INFINITY:
        return PLUS_INFINITY
    if node == negated(INFINITY):
        return MINUS_INFINITY
    value = comparer.real_value(node)
    return None if value is None else End(0, value, side)


def _of_group(group: Group, comparer: ScalarComparer) -> Pieces | None:
    if not group.brackets and group.joiner in ("or", "and", ","):
        return _of_list(group, comparer)
    nodes = [item.node for item in group.items if isinstance(item, Scalar) and item.unit is None]
    if len(nodes) != len(group.items):
        return None
    if group.brackets == "{}":
        points = [(_end(n, comparer, side=-1), _end(n, comparer, side=1)) for n in nodes]
        known = [(low, high) for low, high in points if low is not None and high is not None]
        return merged(known) if len(known) == len(points) else None
    if len(nodes) != 2 or group.left not in ("(", "[") or group.right not in (")", "]"):
        return None
    low = _end(nodes[0], comparer, side=-1 if group.left == "[" else 1)
    high = _end(nodes[1], comparer, side=1 if group.right == "]" else -1)
    return [(low, high)] if low is not None and high is not None and low < high else None


def _of_list(group: Group, comparer: ScalarComparer) -> Pieces | None:
    """Relations or intervals joined by a word: a union for "or" and commas, an intersection for "and"."""
    if not all(isinstance(item, Relation | Union | Group) for item in group.items):
        return None
    parts = [pieces_of(item, comparer) for item in group.items]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts) or not known:
        return None
    if group.joiner == "and":
        result = known[0]
        for part in known[1:]:
            result = intersected(result, part)
        return result
    return merged(piece for part in known for piece in part)


def _line_without(shape: NamedSet, comparer: ScalarComparer) -> Pieces | None:
    if shape.name != "reals":
        return None
    line: Pieces = [(MINUS_INFINITY, PLUS_INFINITY)]
    for item in shape.without:
        value = comparer.real_value(item.node) if isinstance(item, Scalar) else None
        if value is None:
            return None
        line = intersected(line, _all_but(value))
    return line


def _all_but(value: Fraction) -> Pieces:
    return [(MINUS_INFINITY, End(0, value, -1)), (End(0, value, 1), PLUS_INFINITY)]


def _of_relation(relation: Relation, comparer: ScalarComparer) -> Pieces | None:
    """A variable between constants (``1<x<2``, ``x\\neq 3``) or in a set (``x\\in(1,2)``)."""
    if relation.ops == ("in",):
        return pieces_of(relation.sides[1], comparer) if is_variable(relation.sides[0]) else None
    result: Pieces | None = [(MINUS_INFINITY, PLUS_INFINITY)]
    for left, op, right in zip(relation.sides, relation.ops, relation.sides[1:], strict=False):
        one = _half_line(left, op, right, comparer)
        if one is None or result is None:
            return None
        result = intersected(result, one)
    return result


def _half_line(left: Shape, op: str, right: Shape, comparer: ScalarComparer) -> Pieces | None:
    if op not in FLIPPED or not isinstance(left, Scalar) or not isinstance(right, Scalar):
        return None
    if not is_variable(left):
        left, right, op = right, left, FLIPPED[op]
    if not is_variable(left) or symbols(right.node):
        return None
    if right.node in (INFINITY, negated(INFINITY)):
        return [(MINUS_INFINITY, PLUS_INFINITY)] if op in ("<", ">") else None
    value = comparer.real_value(right.node)
    if value is None:
        return None
    below, above = End(0, value, -1), End(0, value, 1)
    return {
        "<": [(MINUS_INFINITY, below)],
        "<=": [(MINUS_INFINITY, above)],
        ">": [(above, PLUS_INFINITY)],
        ">=": [(below, PLUS_INFINITY)],
        "=": [(below, above)],
        "!=": _all_but(value),
    }[op]


def is_variable(shape: Shape) -> bool:
    """True for one variable, also as ``f(x)``."""
    if not isinstance(shape, Scalar) or shape.unit is not None:
        return False
    node = shape.node
    if isinstance(node, Symbol):
        return bool(symbols(node))
    if not isinstance(node, Apply) or node.op != "mul" or len(node.args) != 2 or "(" not in shape.text:
        return False
    return all(isinstance(arg, Symbol) and symbols(arg) for arg in node.args)


def variables(shape: Shape) -> frozenset[str]:
    """Names of the variables that a condition is about."""
    if isinstance(shape, Relation):
        return frozenset().union(*(symbols(s.node) for s in shape.sides if isinstance(s, Scalar)))
    if isinstance(shape, Group | Union):
        parts = shape.items if isinstance(shape, Group) else shape.parts
        return frozenset().union(*(variables(part) for part in parts))
    return frozenset()
