r"""Equations and inequalities: when two say the same, and when one is just a value with a name.

``x = 5`` is the value 5, also as ``f(x) = 5`` or ``\text{Area} = 5``; ``6 = 5``, ``x = x``, ``x = y = 5`` and
``5 \approx 6`` are no values.
"""

import re
from collections.abc import Callable

from rlserve.verifiers.math.scalars import Comparison, ScalarComparer
from rlserve.verifiers.math.sets import FLIPPED, is_variable
from rlserve.verifiers.math.shapes import Group, Relation, Scalar, Shape, Word
from rlserve.verifiers.math.tree import Apply, Node, negated, symbols

ShapeComparer = Callable[[Shape, Shape], Comparison]
CALL = re.compile(r"[A-Za-z](?:_\{?[A-Za-z0-9]{1,3}\}?)?'*\([^()=<>]{1,20}\)")


def value_of(relation: Relation, compare: ShapeComparer) -> Shape | None:
    """The value that an equation gives its left side, or None.

    A chain (``x = 2+3 = 5``) gives one value when all its values are equal.
    """
    if set(relation.ops) != {"="}:
        return None
    name, *values = relation.sides
    if len(values) == 1 and not _is_name(name) and _is_name(values[0]):
        name, values = values[0], [name]
    if not _is_name(name) or any(_is_name(value) or _mentions(value, name) for value in values):
        return None
    if any(not compare(values[0], value).equal for value in values[1:]):
        return None
    return values[-1]


def equal_relations(gold: Relation, answer: Relation, scalars: ScalarComparer, compare: ShapeComparer) -> Comparison:
    """Decide for two relations: the same value of the same name, or the same sides up to a constant factor."""
    left, right = value_of(gold, compare), value_of(answer, compare)
    if left is not None and right is not None and _same_name(gold, answer, compare):
        return compare(left, right)
    if len(gold.ops) == 1 and len(answer.ops) == 1:
        return _one_each(gold, answer, scalars, compare)
    if gold.ops == answer.ops and _sides_equal(gold.sides, answer.sides, compare):
        return Comparison(True, "side by side")
    flipped = tuple(FLIPPED.get(op, "") for op in reversed(answer.ops))
    same = gold.ops == flipped and _sides_equal(gold.sides, answer.sides[::-1], compare)
    return Comparison(same, "side by side")


def _one_each(gold: Relation, answer: Relation, scalars: ScalarComparer, compare: ShapeComparer) -> Comparison:
    """Both sides equal, or ``left - right`` of one a constant times that of the other, its sign turning < to >."""
    if gold.ops == answer.ops and _sides_equal(gold.sides, answer.sides, compare):
        return Comparison(True, "side by side")
    mine, theirs = _difference(gold), _difference(answer)
    if mine is None or theirs is None or gold.ops[0] not in FLIPPED:
        return Comparison(False, "side by side")
    ratio = scalars.constant_ratio(mine, theirs)
    if ratio is None:
        return Comparison(False, "another relation")
    op = answer.ops[0] if ratio > 0 else FLIPPED.get(answer.ops[0], "")
    return Comparison(gold.ops[0] == op, "the same up to a factor")


def _sides_equal(mine: tuple[Shape, ...], theirs: tuple[Shape, ...], compare: ShapeComparer) -> bool:
    return all(compare(left, right).equal for left, right in zip(mine, theirs, strict=True))


def _difference(relation: Relation) -> Node | None:
    left, right = relation.sides[0], relation.sides[-1]
    if not isinstance(left, Scalar) or not isinstance(right, Scalar) or left.unit or right.unit:
        return None
    return Apply("add", (left.node, negated(right.node)))


def _is_name(shape: Shape) -> bool:
    if isinstance(shape, Group) and shape.brackets == "()":
        return all(map(is_variable, shape.items))  # (x, y) = (1, 2)
    return is_variable(shape) or isinstance(shape, Word) or bool(CALL.fullmatch(_text(shape)))


def _text(shape: Shape) -> str:
    return shape.text.replace(" ", "") if isinstance(shape, Scalar) else ""


def _mentions(value: Shape, name: Shape) -> bool:
    """True when a value holds its own name, as in ``x = x + 1``."""
    if not isinstance(value, Scalar) or not isinstance(name, Scalar) or CALL.fullmatch(_text(name)):
        return False
    return bool(symbols(value.node) & symbols(name.node))


def _same_name(gold: Relation, answer: Relation, compare: ShapeComparer) -> bool:
    names = [side for relation in (gold, answer) for side in relation.sides if _is_name(side)]
    if any(isinstance(name, Word) for name in names):
        return True
    return len(names) == 2 and compare(names[0], names[1]).equal
