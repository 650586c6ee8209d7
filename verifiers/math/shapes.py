r"""What kind of thing an answer is: a number, a word, a list, a point, an interval, a matrix, a relation.

Two answers of different kinds are not equal, whatever numbers they hold; that is what a computer algebra system
does not know. ``(1,2)`` may be a point or an interval, so a bracket keeps its signs and is read by its partner.
"""

from dataclasses import dataclass
from fractions import Fraction

from rlserve.verifiers.math.clock import Clock
from rlserve.verifiers.math.tree import Node
from rlserve.verifiers.math.units import Unit


@dataclass(frozen=True, slots=True)
class Scalar:
    """One formula, with its unit if it has one."""

    node: Node
    unit: Unit | None = None
    text: str = ""
    """Normalised text it was read from."""


@dataclass(frozen=True, slots=True)
class Word:
    """An answer in words or the letter of a choice, lower case when longer than a letter."""

    text: str


@dataclass(frozen=True, slots=True)
class BasedNumber:
    """A numeral that names its base."""

    value: Fraction
    base: int


@dataclass(frozen=True, slots=True)
class Group:
    """Items in brackets; a bare list has none."""

    left: str
    """``(``, ``[``, ``{``, ``<`` or empty."""
    right: str
    items: tuple["Shape", ...]
    joiner: str = ","
    """``,``, ``or``, ``and`` or (an intersection of sets) ``cap``; matters for relations."""

    @property
    def brackets(self) -> str:
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
    """The reals, integers, ..., perhaps without some points."""

    name: str
    without: tuple["Shape", ...] = ()


@dataclass(frozen=True, slots=True)
class Opaque:
    """A formula beyond our reader (integral, limit, sum); left to math-verify."""

    text: str
    command: str


Shape = Scalar | Word | BasedNumber | Group | Matrix | Relation | Ratio | Union | NamedSet | Opaque | Clock
