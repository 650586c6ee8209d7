"""Decides how the items of two lists, sets or points are matched: in order, in any order, or not at all."""

from fractions import Fraction

from rlserve.verifiers.math.read.shapes import Group, Relation, Scalar, Shape
from rlserve.verifiers.math.tree import Number


def number_of(shape: Shape) -> Fraction | None:
    """Return the value of a plain numeral, by which long lists are matched quickly; None for other shapes."""
    if isinstance(shape, Scalar) and shape.unit is None and isinstance(shape.node, Number):
        return shape.node.value
    return None


def distinct(group: Group) -> list[Shape]:
    """Return the items of a set without repeated numerals."""
    seen: set[Fraction] = set()
    items: list[Shape] = []
    for item in group.items:
        number = number_of(item)
        if number is None or number not in seen:
            items.append(item)
        if number is not None:
            seen.add(number)
    return items


def matching_order(gold: Group, answer: Group) -> str | None:
    """Return how items are matched: ``ordered``, ``list`` (any order) or ``set`` (any order, once each).

    None: these two are never equal. Brackets of two items may be an interval, so their signs must agree.
    """
    brackets = {gold.brackets, answer.brackets}
    one_names_variables = _is_assignment(gold) != _is_assignment(answer)
    if brackets == {""}:
        return "ordered" if one_names_variables else "list"
    if brackets <= {"", "{}"}:
        return None if one_names_variables else "set"
    if "{}" in brackets:
        return None  # a set beside a point or an interval
    interchangeable = {"()", "<>", ""} if len(gold.items) == 2 else {"()", "<>", "[]", ""}
    return "ordered" if len(brackets) == 1 or brackets <= interchangeable else None


def _is_assignment(group: Group) -> bool:
    """True for values of several variables, ``x=1, y=2``: bare values beside them must stand in the same order.

    ``x_1=1, x_2=2`` are several values of one variable, in any order.
    """
    names = {
        item.sides[0].text.partition("_")[0]
        for item in group.items
        if isinstance(item, Relation) and isinstance(item.sides[0], Scalar)
    }
    return len(names) > 1
