r"""Shapes: the kinds of answers, such as a number, a word, a list, a point, an interval, a matrix, a relation.

Two answers of different kinds are not equal, whatever numbers they contain; a computer algebra system does not make
this distinction. ``(1,2)`` may be a point or an interval, so a ``Group`` keeps its brackets, and the answer that it is
compared with decides.
"""

from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.notation.clock import Clock
from rlserve.verifiers.math.notation.units import Unit
from rlserve.verifiers.math.tree import Node


@dataclass(frozen=True, slots=True)
class Scalar:
    """One formula, with its unit if it has one."""

    node: Node
    unit: Unit | None = None
    text: str = ""
    """The normalised text."""


@dataclass(frozen=True, slots=True)
class Word:
    """An answer in words, in lower case, or the letter of a choice, in upper case."""

    text: str


@dataclass(frozen=True, slots=True)
class BasedNumber:
    """A numeral with its base: ``1010_2``."""

    value: Fraction
    base: int


@dataclass(frozen=True, slots=True)
class Group:
    """Items in brackets, or a bare list without brackets."""

    left: str
    """``(``, ``[``, ``{``, ``<`` or empty."""
    right: str
    items: tuple["Shape", ...]
    joiner: str = ","
    """``,``, ``or``, ``and`` or (for an intersection of sets) ``cap``; it matters for relations and sets only."""

    @property
    def brackets(self) -> str:
        """Both brackets, such as ``[)``; ``""`` for a bare list."""
        return self.left + self.right


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of formulas."""

    rows: tuple[tuple["Shape", ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """``sides[0] ops[0] sides[1] ops[1] ...`` with ops of ``= < > <= >= != approx ~ in``."""

    sides: tuple["Shape", ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """``2:3``."""

    items: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class Union:
    """Sets joined by ``\\cup``."""

    parts: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class NamedSet:
    """The reals, integers, ..., perhaps without some points: ``\\mathbb{R} \\setminus \\{0\\}``."""

    name: str
    without: tuple["Shape", ...] = ()


@dataclass(frozen=True, slots=True)
class Opaque:
    """A formula beyond our parser (integral, limit, sum), which math-verify compares."""

    text: str
    command: str


Shape = Scalar | Word | BasedNumber | Group | Matrix | Relation | Ratio | Union | NamedSet | Opaque | Clock
