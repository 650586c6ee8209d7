r"""Compares equations and inequalities, and recognises those that are a value with a name.

``x = 5`` is the value 5, also as ``f(x) = 5``, ``AB = 5`` or ``\text{Area} = 5``; so is a true equation of constants
(``2 + 3 = 5``), and a value with its approximation. ``6 = 5``, ``x = x``, ``x = y = 5``, ``2x = 5`` and
``5 \approx 6`` are no values.
"""

import re
from collections.abc import Callable

from rlserve.verifiers.math.compare.scalars import Comparison, ScalarComparer
from rlserve.verifiers.math.compare.sets import FLIPPED
from rlserve.verifiers.math.read.names import is_call, is_name, is_sum_of_unknowns, is_value, is_variable
from rlserve.verifiers.math.read.shapes import Group, Opaque, Relation, Scalar, Shape, Word
from rlserve.verifiers.math.tree import Apply, Node, Symbol, negated, symbols

PROSE = re.compile(r"[A-Za-z ]*[a-z]{3}[A-Za-z ]*")
"""A name in words."""
ShapeComparer = Callable[[Shape, Shape], Comparison]


def values_of(
    relation: Relation, scalars: ScalarComparer, compare: ShapeComparer, *, of_answer: bool = False
) -> tuple[Shape, ...]:
    """Return the value that a relation gives to its left side, in the forms that may be compared; ``()`` without one.

    A chain (``x = 2+3 = 5``) gives one value when all its values are equal. A correct approximation
    (``x = \\sqrt 2 \\approx 1.41``) is a second form. ``of_answer`` allows sums of unknowns as names (``x+y = 7``),
    which in a gold answer are equations.
    """
    if relation.ops == ("in",):
        return _members(relation)
    if not set(relation.ops) <= {"=", "approx"}:
        return ()
    sides, ops = list(relation.sides), list(relation.ops)
    # "5 = x" gives the same value as "x = 5".
    if len(sides) == 2 and is_name(sides[1]) and not is_name(sides[0]) and not _is_constant(sides[1]):
        sides.reverse()
    if not _is_constant(sides[0]):
        if not _names(sides[0], sides[1:], of_answer=of_answer):
            return ()
        sides, ops = sides[1:], ops[1:]
    elif not all(map(_is_constant, sides)):
        return ()
    return _agreeing(sides, ops, scalars, compare)


def _agreeing(sides: list[Shape], ops: list[str], scalars: ScalarComparer, compare: ShapeComparer) -> tuple[Shape, ...]:
    """Return the last exact value and its approximations when all of them agree; else ``()``."""
    count = next((index for index, op in enumerate(ops) if op == "approx"), len(ops)) + 1
    exact, approximate = sides[:count], sides[count:]
    if any(not compare(exact[0], value).equal for value in exact[1:]):
        return ()
    for value in approximate:
        if not isinstance(value, Scalar) or not isinstance(exact[-1], Scalar):
            return ()
        if not scalars.approximates(value.node, exact[-1].node):
            return ()
    return (exact[-1], *approximate)


def equal_relations(gold: Relation, answer: Relation, scalars: ScalarComparer, compare: ShapeComparer) -> Comparison:
    """Decide for two relations: equal values of one name, or the same sides up to a constant factor."""
    left, right = (values_of(relation, scalars, compare) for relation in (gold, answer))
    if left and right and _same_name(gold, answer, compare):
        return any_equal(left, right, compare)
    if len(gold.ops) == 1 and len(answer.ops) == 1:
        return _one_each(gold, answer, scalars, compare)
    if gold.ops == answer.ops and _sides_equal(gold.sides, answer.sides, compare):
        return Comparison(True, "side by side")
    # "1 < x < 2" read from the right: "2 > x > 1".
    flipped = tuple(FLIPPED.get(op, "") for op in reversed(answer.ops))
    same = gold.ops == flipped and _sides_equal(gold.sides, answer.sides[::-1], compare)
    return Comparison(same, "side by side")


def any_equal(left: tuple[Shape, ...], right: tuple[Shape, ...], compare: ShapeComparer) -> Comparison:
    """Return the first comparison of a left and a right value that is equal, else that of the first pair."""
    found = [compare(mine, theirs) for mine in left for theirs in right]
    return next((comparison for comparison in found if comparison.equal), found[0])


def _one_each(gold: Relation, answer: Relation, scalars: ScalarComparer, compare: ShapeComparer) -> Comparison:
    """Compare side by side, else ``left - right`` of both up to a constant factor; a negative one turns < to >."""
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


def _members(relation: Relation) -> tuple[Shape, ...]:
    """Return the set behind ``x \\in \\{1,2\\}``; of a set with one element, that element."""
    name, values = relation.sides
    if not isinstance(values, Group) or values.brackets != "{}" or not values.items or not is_name(name):
        return ()
    return (values,) if len(values.items) > 1 else values.items


def _is_constant(shape: Shape) -> bool:
    return isinstance(shape, Scalar) and not symbols(shape.node)


def _names(side: Shape, values: list[Shape], *, of_answer: bool) -> bool:
    """True when ``side`` can be the name of the values."""
    if not is_name(side) and not (of_answer and is_sum_of_unknowns(side)):
        return False
    simple = is_variable(side) or isinstance(side, Group) or _is_call(side) or isinstance(side, Word)
    if any(isinstance(value, Relation | Opaque) or _mentions(value, side) for value in values):
        return False
    if simple:
        return not any(is_variable(value) for value in values)
    return all(map(is_value, values))


def _is_call(side: Shape) -> bool:
    return isinstance(side, Scalar) and is_call(side.text)


def _mentions(value: Shape, name: Shape) -> bool:
    """True when a value contains its own name, as in ``x = x + 1``."""
    if not isinstance(value, Scalar) or not isinstance(name, Scalar) or _is_call(name):
        return False
    return bool(symbols(value.node) & symbols(name.node))


def _same_name(gold: Relation, answer: Relation, compare: ShapeComparer) -> bool:
    """True for names of one variable or quantity. A word may stand for a variable, and more words for fewer."""
    mine, theirs = (next((side for side in relation.sides if is_name(side)), None) for relation in (gold, answer))
    if mine is None or theirs is None:
        return mine is theirs
    words = [set(name.text.lower().split()) if isinstance(name, Word) else set() for name in (mine, theirs)]
    if all(words):
        return words[0] <= words[1] or words[1] <= words[0]
    if any(words):
        letter, word = (theirs, mine) if words[0] else (mine, theirs)
        is_letter = isinstance(letter, Scalar) and isinstance(letter.node, Symbol)
        return is_letter and isinstance(word, Word) and PROSE.fullmatch(word.text) is not None
    return compare(mine, theirs).equal
