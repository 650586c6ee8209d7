"""The expression tree of a formula, before anything is computed.

It has three node types and is never simplified. Building a tree computes nothing, so a hostile formula costs no more
than its length.
"""

from dataclasses import dataclass
from fractions import Fraction


class Unreadable(Exception):
    """The text is no formula that our reader supports; ``command`` is the unsupported LaTeX command, if any."""

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(reason)
        self.command = command


@dataclass(frozen=True, slots=True)
class Number:
    """A numeral as written."""

    value: Fraction
    places: int | None = None
    """Decimals behind the point; None for an integer or an exact notation such as ``0.\\overline{3}``."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or a constant: ``x``, ``x_{1}``, ``pi``, ``e``, ``i``, ``infty``."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation on arguments: ``add``, ``mul``, ``div``, ``pow``, ``neg``, ``sqrt``, ``sin``, ..."""

    op: str
    args: tuple["Node", ...]


Node = Number | Symbol | Apply

CONSTANTS = frozenset(("pi", "e", "i", "infty"))
DEGREE = Apply("div", (Symbol("pi"), Number(Fraction(180))))
"""One degree in radians, as an exact formula: a decimal would make ``60^\\circ`` differ from ``\\pi/3``."""


def symbols(node: Node) -> frozenset[str]:
    """Return the names of the variables in a tree, without constants."""
    if isinstance(node, Symbol):
        return frozenset() if node.name in CONSTANTS else frozenset((node.name,))
    if isinstance(node, Apply):
        return frozenset().union(*(symbols(arg) for arg in node.args))
    return frozenset()


def negated(node: Node) -> Node:
    """Return ``-node``. A numeral stays a numeral, so that ``-0.5`` still counts as a decimal of one place."""
    if isinstance(node, Number):
        return Number(-node.value, node.places)
    return Apply("neg", (node,))


def spelled(node: Node) -> str:
    """Return a text that identifies the tree."""
    if isinstance(node, Number):
        # In hexadecimal: Python refuses to write more than 4,300 decimal digits.
        return f"{node.value.numerator:x}/{node.value.denominator:x}"
    if isinstance(node, Symbol):
        return node.name
    return f"({node.op} {' '.join(map(spelled, node.args))})"
