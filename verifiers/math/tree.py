"""The expression tree: what a formula says, before anything is computed.

Three node types and no cleverness. Building a tree never computes, so a hostile formula costs its length.
"""

from dataclasses import dataclass
from fractions import Fraction


class Unreadable(Exception):
    """The text is not a formula that we read; ``command`` names what stopped us when that was a command."""

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(reason)
        self.command = command


@dataclass(frozen=True, slots=True)
class Number:
    """A numeral as written."""

    value: Fraction
    places: int | None = None
    """Decimals after the point; None for an integer or an exact notation such as ``0.\\overline{3}``."""


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
    """Names of the variables in a tree (constants are none)."""
    if isinstance(node, Symbol):
        return frozenset() if node.name in CONSTANTS else frozenset((node.name,))
    if isinstance(node, Apply):
        return frozenset().union(*(symbols(arg) for arg in node.args))
    return frozenset()


def negated(node: Node) -> Node:
    """``-node``; a numeral stays a numeral, so that ``-0.5`` is one."""
    if isinstance(node, Number):
        return Number(-node.value, node.places)
    return Apply("neg", (node,))


def spelled(node: Node) -> str:
    """A text that identifies the tree; numbers in hexadecimal, which has no limit of length."""
    if isinstance(node, Number):
        return f"{node.value.numerator:x}/{node.value.denominator:x}"
    if isinstance(node, Symbol):
        return node.name
    return f"({node.op} {' '.join(map(spelled, node.args))})"
