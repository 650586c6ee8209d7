r"""Decides whether an answer equals the gold answer: the same kind of thing first, then equal in every part.

The gold answer defines what is asked for. The answer may have another notation, but it may not be more (a second try),
less (one of two roots) or another kind of thing (a set for a point). Each kind has its rules in a method below.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from rlserve.verifiers.math.compare.choices import is_letter, letter_of, read_choice
from rlserve.verifiers.math.compare.lists import distinct, matching_order, number_of
from rlserve.verifiers.math.compare.quantities import Policy, QuantityComparer
from rlserve.verifiers.math.compare.relations import any_equal, equal_relations, values_of
from rlserve.verifiers.math.compare.scalars import Comparison, ScalarComparer
from rlserve.verifiers.math.compare.sets import same_sets
from rlserve.verifiers.math.compare.slow import COMMANDS, equal_by_math_verify, may_ask
from rlserve.verifiers.math.notation.clock import Clock
from rlserve.verifiers.math.notation.framing import announced, with_parameter_of
from rlserve.verifiers.math.notation.normalize import TEXT_GROUP, key, normalize
from rlserve.verifiers.math.notation.numerals import read_numeral
from rlserve.verifiers.math.read.reader import read
from rlserve.verifiers.math.read.shapes import (
    BasedNumber,
    Group,
    Matrix,
    NamedSet,
    Opaque,
    Ratio,
    Relation,
    Scalar,
    Shape,
    Union,
    Word,
)
from rlserve.verifiers.math.tree import Apply, Number, Unreadable

DIFFERENT = "another kind of answer"


class Equivalence:
    r"""Decides whether two answers are equal. Its only state is the scratch space of the arithmetic.

    Example::

        equivalence = Equivalence()
        equivalence.compare(r"\frac{1}{2}", "0.5")   # Comparison(equal=True, rule="number")
        equivalence.compare("x = 5", "5")            # equal: the value of a variable
        equivalence.compare(r"\{1, 2\}", "1")        # not equal: another number of answers
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._scalars = ScalarComparer()
        self._quantities = QuantityComparer(self._scalars, policy or Policy())

    def compare(self, gold: str, answer: str) -> Comparison:
        """Decide for two raw answers, gold first. The answer must have passed the prefilter.

        No text of an answer or a gold makes it raise. It can be slow only inside math-verify, for formulas beyond our
        reader; there it raises TimeUp.
        """
        try:
            return self._compare(announced(normalize(gold)), announced(normalize(answer)))
        except Exception as error:
            # A formula that breaks our arithmetic is a wrong answer. Without a verdict the policy could learn to
            # avoid a 0 by such formulas.
            return Comparison(False, f"cannot be compared ({type(error).__name__})")

    def _compare(self, gold: str, answer: str) -> Comparison:
        if not answer:
            return Comparison(False, "empty")
        fast = _fast(gold, answer)
        if fast is not None:
            return fast
        found = self._read_and_compare(gold, answer)
        # Choices last: a letter in front is dropped only where no other rule finds the two equal.
        return found if found.equal else self._choices(gold, answer) or found

    def _read_and_compare(self, gold_text: str, answer_text: str) -> Comparison:
        try:
            gold = read(gold_text)
        except Unreadable as error:
            # An unreadable gold answer equals the same text only, unless it is a formula that math-verify knows.
            same = Comparison(_as_text(gold_text) == _as_text(answer_text), "text")
            return same if same.equal else self._second_opinion(gold_text, answer_text, error) or same
        try:
            answer = read(with_parameter_of(gold_text, answer_text), letters=_has_unit(gold))
        except Unreadable as error:
            found = self._second_opinion(gold_text, answer_text, error)
            return found or Comparison(False, f"unreadable ({error})")
        # Each side is now read once more in the light of the other one.
        gold, answer = _named_point(gold_text, gold, answer), _named_point(answer_text, answer, gold)
        if _is_bare_list(gold) != _is_bare_list(answer):
            gold, answer = _reread(gold_text, gold, answer), _reread(answer_text, answer, gold)
        return self.shapes(gold, answer)

    @staticmethod
    def _second_opinion(gold: str, answer: str, error: Unreadable) -> Comparison | None:
        """Ask math-verify where our reader stopped at a command that it knows, and both sides are plain formulas.

        Where our reader stopped at a number, a word or a sign, the text is no answer: math-verify would drop that part
        and compare the rest.
        """
        if error.command not in COMMANDS or not may_ask(gold) or not may_ask(answer):
            return None
        return Comparison(equal_by_math_verify(gold, answer), "math-verify")

    def _choices(self, gold: str, answer: str) -> Comparison | None:
        """Compare letters of a choice, with or without the option's text; None when neither side is a choice."""
        mine, theirs = read_choice(gold), read_choice(answer)
        if mine is None and theirs is None:
            return None
        if mine is not None and theirs is not None:
            same = mine.letter == theirs.letter
            return Comparison(
                same and (not mine.text or not theirs.text or self._same(mine.text, theirs.text)), "choice"
            )
        choice, other = (mine, answer) if mine is not None else (theirs, gold)
        assert choice is not None
        if is_letter(other):
            return Comparison(choice.letter == letter_of(other), "choice")
        pair = (choice.text, other) if choice is mine else (other, choice.text)
        return Comparison(bool(choice.text) and self._same(*pair), "text of a choice")

    def _same(self, gold: str, answer: str) -> bool:
        fast = _fast(gold, answer)
        return (fast or self._read_and_compare(gold, answer)).equal

    def shapes(self, gold: Shape, answer: Shape) -> Comparison:
        """Decide for two shapes."""
        # The order matters: a kind that takes a partner of several other kinds comes before these. A relation may be
        # compared with its value, a group with its only item, a word with a short product, a time with a ratio.
        if isinstance(gold, Opaque) or isinstance(answer, Opaque):
            return self._opaque(gold, answer)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self._relations(gold, answer)
        if isinstance(gold, Scalar) and isinstance(answer, Scalar):
            return self._quantities.compare(gold, answer)
        if isinstance(gold, Group) or isinstance(answer, Group):
            return self._groups(gold, answer)
        if isinstance(gold, Union | NamedSet) and isinstance(answer, Union | NamedSet):
            return self._sets(gold, answer)
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            return self._matrices(gold, answer)
        if isinstance(gold, Word) and isinstance(answer, Word):
            return Comparison(gold.text == answer.text, "word")
        if isinstance(gold, Word) or isinstance(answer, Word):
            return Comparison(_spelled(gold) == _spelled(answer) != "", "word")
        if isinstance(gold, BasedNumber) or isinstance(answer, BasedNumber):
            return self._based(gold, answer)
        if isinstance(gold, Clock) and isinstance(answer, Clock):
            return Comparison(gold.same_time(answer), "time of day")
        if isinstance(gold, Clock) and not gold.may_be_ratio:
            return Comparison(False, "time of day")
        gold, answer = _as_ratio(gold), _as_ratio(answer)
        if isinstance(gold, Ratio) or isinstance(answer, Ratio):
            return self._ratios(gold, answer)
        return Comparison(False, DIFFERENT)

    def _opaque(self, gold: Shape, answer: Shape) -> Comparison:
        """Let math-verify compare formulas beyond our reader; both sides must be one formula."""
        texts = [shape.text for shape in (gold, answer) if isinstance(shape, Opaque | Scalar)]
        if len(texts) != 2:
            return Comparison(False, DIFFERENT)
        return Comparison(equal_by_math_verify(*texts), "math-verify")

    def _relations(self, gold: Shape, answer: Shape) -> Comparison:
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            found = equal_relations(gold, answer, self._scalars, self.shapes)
            # Inequalities of another form may still hold the same numbers: 1 < x < 3 and |x - 2| < 1.
            return found if found.equal or "=" in gold.ops else self._sets(gold, answer, found)
        relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
        assert isinstance(relation, Relation)
        is_set = isinstance(other, Group | Union | NamedSet) and not _holds_equations(other)
        values = values_of(relation, self._scalars, self.shapes, of_answer=relation is answer)
        if is_set and set(relation.ops) != {"="} and not (values and relation.ops == ("in",)):
            return self._sets(gold, answer)
        if not values or (isinstance(other, Group) and not isinstance(values[0], Group | Matrix)):
            return Comparison(False, "a relation that is no value")
        if relation is gold:
            return any_equal(values, (other,), self.shapes)
        return any_equal((other,), values, self.shapes)

    def _sets(self, gold: Shape, answer: Shape, otherwise: Comparison | None = None) -> Comparison:
        """Compare as sets of reals; the result is ``otherwise`` when one side is no set of reals that we can read."""
        if isinstance(gold, NamedSet) and isinstance(answer, NamedSet) and gold == answer:
            return Comparison(True, "set")
        same = same_sets(gold, answer, self._scalars)
        if same is None:
            return otherwise or Comparison(False, DIFFERENT)
        return Comparison(same, "set of reals")

    def _groups(self, gold: Shape, answer: Shape) -> Comparison:
        if isinstance(gold, Group) and isinstance(answer, Group):
            return self._two_groups(gold, answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            left, right = _as_matrix(gold), _as_matrix(answer)
            return self._matrices(left, right) if left and right else Comparison(False, DIFFERENT)
        if isinstance(gold, Union | NamedSet) or isinstance(answer, Union | NamedSet):
            return self._sets(gold, answer)
        group, other = (gold, answer) if isinstance(gold, Group) else (answer, gold)
        assert isinstance(group, Group)
        if group.brackets not in ("{}", "") or len(group.items) != 1:
            return Comparison(False, "another number of answers")
        return self.shapes(group.items[0], other) if group is gold else self.shapes(other, group.items[0])

    def _two_groups(self, gold: Group, answer: Group) -> Comparison:
        if _is_condition(gold) or _is_condition(answer):
            found = self._sets(gold, answer)
            if found.rule != DIFFERENT:
                return found
        order = matching_order(gold, answer)
        if order is None:
            return Comparison(False, "other brackets")
        left, right = (gold.items, answer.items) if order != "set" else (distinct(gold), distinct(answer))
        if len(left) != len(right):
            return Comparison(False, "another number of answers")
        if order == "ordered":
            return self._all(left, right, "item by item")
        return self._matched(left, right)

    def _all(self, left: Sequence[Shape], right: Sequence[Shape], rule: str) -> Comparison:
        for mine, theirs in zip(left, right, strict=True):
            found = self.shapes(mine, theirs)
            if not found.equal:
                return Comparison(False, f"{rule}: {found.rule}")
        return Comparison(True, rule)

    def _matched(self, left: Sequence[Shape], right: Sequence[Shape]) -> Comparison:
        """True when every gold item has a partner of its own, in any order."""
        # Equal numerals are paired first, without arithmetic; only the rest is compared each with each.
        numbers = [number_of(item) for item in right]
        free = list(range(len(right)))
        hard: list[Shape] = []
        for item in left:
            number = number_of(item)
            index = next((i for i in free if number is not None and numbers[i] == number), None)
            if index is None:
                hard.append(item)
            else:
                free.remove(index)
        if len(hard) > MAX_HARD_ITEMS:
            return Comparison(False, "too many to compare")
        for item in hard:
            index = next((i for i in free if self.shapes(item, right[i]).equal), None)
            if index is None:
                return Comparison(False, "in any order")
            free.remove(index)
        return Comparison(True, "in any order")

    def _matrices(self, gold: Matrix, answer: Matrix) -> Comparison:
        same_size = [len(row) for row in gold.rows] == [len(row) for row in answer.rows]
        if not same_size:
            return Comparison(False, "another size")
        cells = [[cell for row in matrix.rows for cell in row] for matrix in (gold, answer)]
        return self._all(cells[0], cells[1], "entry by entry")

    def _based(self, gold: Shape, answer: Shape) -> Comparison:
        """Compare numerals with a base: both must have the same base, and a bare numeral counts as base ten."""
        if isinstance(gold, BasedNumber) and isinstance(answer, BasedNumber):
            return Comparison(gold == answer, "base")
        based, other = (gold, answer) if isinstance(gold, BasedNumber) else (answer, gold)
        assert isinstance(based, BasedNumber)
        if based.base != 10 or not isinstance(other, Scalar):
            return Comparison(False, "another base")
        return self._quantities.compare(Scalar(Number(based.value)), other)

    def _ratios(self, gold: Shape, answer: Shape) -> Comparison:
        if isinstance(gold, Ratio) and isinstance(answer, Ratio):
            if len(gold.items) != len(answer.items):
                return Comparison(False, "another number of terms")
            left, right = _quotients(gold), _quotients(answer)
            if left is None or right is None:
                return self._all(gold.items, answer.items, "term by term")
            return self._all(left, right, "ratio")
        ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
        assert isinstance(ratio, Ratio)
        if any(isinstance(item, Scalar) and item.node == Number(Fraction(0)) for item in ratio.items):
            return Comparison(False, DIFFERENT)  # "0 to 3" is a range, and a quotient of 0 would make it 0
        parts = _quotients(ratio)
        if parts is None or len(parts) != 1 or not isinstance(other, Scalar) or other.unit is not None:
            return Comparison(False, DIFFERENT)
        return self.shapes(parts[0], other)


NAMED_POINT = re.compile(r"[A-Z](?:_ ?\{?[A-Za-z0-9]\}?)?'* ?(\(.+\))")
MAX_HARD_ITEMS = 24
"""Items that are no plain numerals are compared each with each: at most 24 * 24 comparisons of formulas. Any value of
this size will do."""


def _fast(gold: str, answer: str) -> Comparison | None:
    """Decide the most common case: the same text, or two plain numerals; None for all others."""
    if key(gold) == key(answer):
        return Comparison(True, "same text")
    left = read_numeral(gold)
    right = read_numeral(answer) if left is not None else None
    # Decimals go on to ``scalars.py``: one of six places and more stands for all numbers that round to it.
    if left is None or right is None or left.places is not None or right.places is not None:
        return None
    return Comparison(left.value == right.value, "number")


def _spelled(shape: Shape) -> str:
    """Return the letters of a word, also of a short one that was read as a product; ``""`` for other shapes."""
    text = shape.text if isinstance(shape, Word | Scalar) else ""
    return text.lower() if len(text) > 1 and text.isalpha() else ""


def _as_text(normal: str) -> str:
    return key(TEXT_GROUP.sub(r"\1", normal)).lower()


def _named_point(text: str, shape: Shape, partner: Shape) -> Shape:
    """Read ``P(1,2)`` beside a point as the point of that name."""
    match = NAMED_POINT.fullmatch(text) if isinstance(partner, Group) and partner.brackets == "()" else None
    return shape if match is None or isinstance(shape, Group) else read(match.group(1))


def _reread(text: str, shape: Shape, partner: Shape) -> Shape:
    """Read ``100,200`` beside a list as a list of two numbers."""
    if "," not in text or not isinstance(shape, Scalar) or not isinstance(partner, Group):
        return shape
    try:
        return read(text, thousands=False)
    except Unreadable:
        return shape


def _is_bare_list(shape: Shape) -> bool:
    return isinstance(shape, Group) and shape.brackets in ("", "{}")


def _as_ratio(shape: Shape) -> Shape:
    """Turn a time of day into the ratio of its numbers; without numbers alone it stays as it is."""
    if not isinstance(shape, Clock) or shape.terms is None:
        return shape
    return Ratio(tuple(Scalar(Number(Fraction(term))) for term in shape.terms))


def _has_unit(shape: Shape) -> bool:
    if isinstance(shape, Scalar):
        return shape.unit is not None
    return isinstance(shape, Group) and any(map(_has_unit, shape.items))


def _is_condition(group: Group) -> bool:
    """True for inequalities or unions, which limit a variable; equations give values and are matched one by one."""
    if group.joiner == "cap":
        return True
    return any(isinstance(item, Union) or (isinstance(item, Relation) and "=" not in item.ops) for item in group.items)


def _holds_equations(shape: Shape) -> bool:
    return isinstance(shape, Group) and any(
        isinstance(item, Relation) and set(item.ops) == {"="} for item in shape.items
    )


def _as_matrix(shape: Shape) -> Matrix | None:
    """Read ``[[1,2],[3,4]]`` as a matrix of its rows and ``(1,2)`` beside a matrix as a column; None for the rest."""
    if isinstance(shape, Matrix):
        return shape
    if not isinstance(shape, Group) or shape.brackets not in ("[]", "()", "<>"):
        return None
    if all(isinstance(item, Group) for item in shape.items):
        return Matrix(tuple(item.items for item in shape.items if isinstance(item, Group)))
    return None if shape.brackets == "[]" else Matrix(tuple((item,) for item in shape.items))


def _quotients(ratio: Ratio) -> list[Shape] | None:
    """Return the first term divided by each other one; None when a term is no plain formula."""
    nodes = [item.node for item in ratio.items if isinstance(item, Scalar) and item.unit is None]
    if len(nodes) != len(ratio.items):
        return None
    return [Scalar(Apply("div", (nodes[0], node))) for node in nodes[1:]]
