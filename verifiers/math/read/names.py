r"""Recognises names of quantities left of an equals sign: ``AB``, ``\sin\theta``, ``P(X=2)``, ``\angle ABC``.

``2x`` is not a name: ``2x = 10`` means that x is 5. Neither are ``\sqrt{x}`` and ``\log x``.
"""

import re

from rlserve.verifiers.math.notation.split import closing_index
from rlserve.verifiers.math.read.shapes import Group, Matrix, Opaque, Ratio, Scalar, Shape, Word
from rlserve.verifiers.math.tree import Apply, Node, Number, Symbol, symbols

TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
# An angle, segment or word with a decoration, perhaps under a function; or up to five short words and letters.
LABEL = re.compile(
    r"(?:\\(?:sin|cos|tan|cot) )?(?:[a-zA-Z] ?)?(?:_ ?\{? ?)?"
    r"\\(?:angle|triangle|overline|hat|text|square|odot|widetilde|tilde|dot)"
    r" ?\{?[A-Za-z0-9 ']{1,40}\}*"
    r"|(?:\\text\{[^{}]{1,40}\} ?|[A-Za-z]{1,4} ?|\\(?:angle|triangle) ?){1,5}"
)
# The letter or word in front of a bracket, with its subscript, primes and power: "f^{-1}(", "P_{1}(", "a'(".
HEAD = re.compile(
    r"(?:\\text\{[A-Za-z ]{1,20}\}|[A-Za-z]|\\[A-Za-z]+ ?)(?:_ ?(?:[A-Za-z0-9]|\{[^{}]{1,12}\}))?'*"
    r"(?: ?\^ ?(?:\{[^{}]{1,8}\}|[0-9]))? ?(?=[(\[])"
)
DERIVATIVE = re.compile(r"\\frac\{d(?:\^\{?[0-9]\}?)?[a-z]?(?:\([a-z]\))?\}\{d[a-z](?:\^\{?[0-9]\}?)?\}")
# "[ABC]", the area of a triangle in competition mathematics.
AREA = re.compile(r"\[[A-Z]{3,6}\]")
# "|A|", "\|v\|", "A \cup B", and an integral or sum as a whole.
OTHER = re.compile(
    r"\|[^|]{1,30}\||\\\|[^|]{1,30}\\\||[A-Z] ?\\(?:cup|cap|setminus) [A-Z]"
    r"|\\(?:int|sum|prod|lim|max|min|det|dim)(?![A-Za-z]).{1,120}"
)
MAX_CHARACTERS = 120
"""Of a name. Any value of this size will do: it bounds the patterns above on a left side that is no name."""


def is_name_text(text: str) -> bool:
    """True for the name of a quantity that the parser cannot read: ``P(X=2)``, ``\\|v\\|``, ``[ABC]``."""
    text = text.strip()
    if len(text) > MAX_CHARACTERS or not text:
        return False
    if LABEL.fullmatch(text) or AREA.fullmatch(text) or OTHER.fullmatch(text):
        return True
    head = HEAD.match(text)
    return head is not None and closing_index(text, head.end()) == len(text) - 1


def is_variable(shape: Shape) -> bool:
    """True for one variable, also applied to another one: ``f(x)``."""
    if not isinstance(shape, Scalar) or shape.unit is not None:
        return False
    node = shape.node
    if isinstance(node, Symbol):
        return bool(symbols(node))
    # The parser reads f(x) as a product; its brackets tell it from "fx".
    if not isinstance(node, Apply) or node.op != "mul" or len(node.args) != 2 or "(" not in shape.text:
        return False
    return all(isinstance(arg, Symbol) and symbols(arg) for arg in node.args)


def is_name(shape: Shape) -> bool:
    """True for one variable, a word, ``f(x)``, and for formulas used as names only: ``AB``, ``\\sin A``."""
    if isinstance(shape, Group) and shape.brackets == "()":
        return all(map(is_variable, shape.items))  # (x, y) = (1, 2)
    if isinstance(shape, Ratio):
        return all(map(is_name, shape.items))
    if isinstance(shape, Word | Opaque) or is_variable(shape):
        return True
    if not isinstance(shape, Scalar) or shape.unit is not None:
        return False
    return _is_quantity(shape.node) or is_call(shape.text)


def is_call(text: str) -> bool:
    """True for a call such as ``P(A)`` and ``f^{-1}(x)``, and for a derivative ``dy/dx``.

    ``x(x+1)`` is a product, since the letter in front appears in its brackets again.
    """
    text = text.replace(" ", "")
    head = HEAD.match(text)
    if head is None or text.startswith("\\"):
        return DERIVATIVE.fullmatch(text) is not None
    return closing_index(text, head.end()) == len(text) - 1 and text[0] not in text[head.end() :]


def is_sum_of_unknowns(shape: Shape) -> bool:
    """True for ``x+y``, ``ab``, ``x^2+y^2``: the quantity that a question asks for.

    An equation of two unknowns cannot be solved for one of them, so ``x+y = 7`` gives the value of a sum.
    """
    if not isinstance(shape, Scalar) or shape.unit is not None:
        return False
    return len(symbols(shape.node)) >= 2 and not _holds_numeral(shape.node)


def _is_quantity(node: Node) -> bool:
    if isinstance(node, Symbol):
        return node.name[:1].isupper() and bool(symbols(node))  # points of geometry: AB is a segment, xy a product
    if not isinstance(node, Apply) or not symbols(node):
        return False
    if node.op == "abs":
        return not _holds_numeral(node) and symbols(node) not in ({"x"}, {"y"})  # |x| = 5 is to be solved
    if node.op in TRIGONOMETRIC:
        return True
    if node.op == "pow":
        return isinstance(node.args[0], Apply) and node.args[0].op in TRIGONOMETRIC
    return node.op in ("mul", "div") and all(map(_is_quantity, node.args))


def _holds_numeral(node: Node) -> bool:
    """True when a numeral is a term or factor; numerals in exponents do not count."""
    if isinstance(node, Number):
        return True
    if not isinstance(node, Apply):
        return False
    return any(map(_holds_numeral, node.args[:1] if node.op == "pow" else node.args))


def is_value(shape: Shape) -> bool:
    """True for a shape that can be the value of a compound name: one without variables."""
    return not isinstance(shape, Scalar) or not symbols(shape.node) or isinstance(shape, Matrix)
