r"""Normalised text to a shape, from the outermost structure inwards: list, relation, union, bracket, formula."""

import re
from collections.abc import Callable

from rlserve.verifiers.math.numerals import read_based, read_numeral
from rlserve.verifiers.math.parser import parse
from rlserve.verifiers.math.shapes import (
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
from rlserve.verifiers.math.split import closing_index, split_top
from rlserve.verifiers.math.tree import Apply, Node, Symbol, Unreadable, negated
from rlserve.verifiers.math.units import split_unit

MAX_DEPTH = 20
OPAQUE = re.compile(r"\\(int|iint|oint|sum|prod|lim|det|partial|mod|pmod)(?![A-Za-z])")
JOINERS = {
    "or": re.compile(r"\\text\{,? ?or\}|\\vee |(?<![A-Za-z\\])or(?![A-Za-z])"),
    "and": re.compile(r"\\text\{,? ?and\}|\\wedge |(?<![A-Za-z\\])and(?![A-Za-z])"),
}
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "\\leq ": "<=", "\\geq ": ">=", "\\neq ": "!=", "\\approx ": "~",
    "\\equiv ": "~", "\\sim ": "~", "\\simeq ": "~", "\\cong ": "~", "\\propto ": "~", "\\in ": "in",
    "\\notin ": "notin", "\\rightarrow ": "~", "\\Rightarrow ": "~", "\\iff ": "~", "\\nless ": "~",
}  # fmt: skip
RELATION = re.compile(
    r"\\(?:leq|geq|neq|approx|equiv|simeq|sim|cong|propto|in|notin|rightarrow|Rightarrow|iff|nless) |[=<>]"
)
NOT_EQUAL = re.compile(r"\\not ?=")
CHOICE = re.compile(r"\(?([A-Z])\)?")
LABEL = re.compile(r"\\(?:angle|triangle|overline|vec|hat|measuredangle|text) ?\{?[A-Za-z ]{1,20}\}?")
WORDS = re.compile(r"[^\W\d_][^\W\d_'-]*(?: [^\W\d_][^\W\d_'-]*)*")
THOUSANDS = re.compile(r"[-+]?(?:\\[a-z]+ )?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?(?:[^0-9,].*)?")
MATRIX = re.compile(
    r"\\begin ?\{([bpvBV]?matrix|array|cases|aligned)\}(?:\{[lcr| ]*\})?(.*)\\end ?\{\1\}(.*)", re.DOTALL
)
PROPERTY = re.compile(r" ?[A-Za-z] ?(?:\\in ?\\reals ?)?[|:] ?")
"""``{x | x > 3}`` says what ``x > 3`` says."""
NAMED_SETS = ("reals", "integers", "naturals", "rationals", "complexes")
LITTLE_WORDS = frozenset(("yes", "no", "true", "false", "odd", "even", "none", "dne", "nan", "inf", "am", "pm", "up"))


def read(normal: str, *, letters: bool = False, thousands: bool = True, depth: int = 0) -> Shape:
    """The shape that ``normal`` writes; raises Unreadable.

    ``letters``: see ``units.split_unit``. ``thousands`` reads ``100,200`` as one number and not as two.
    """
    if depth > MAX_DEPTH:
        raise Unreadable("nested too deep")
    text = _without_wrapping(normal.strip())
    if not text:
        raise Unreadable("empty")
    if normal.startswith("\\text{") and WORDS.fullmatch(text) and 1 < len(text) <= 3:
        return Word(text.lower())

    def inner(part: str) -> Shape:
        return read(part, letters=letters, thousands=thousands, depth=depth + 1)

    if thousands and _is_thousands(text):
        return _scalar(text, letters=letters)
    steps: tuple[Callable[[str, Callable[[str], Shape]], Shape | None], ...] = (
        _word, _matrix, _vector, _joined, _plus_minus, _listed, _relation, _set, _bracket, _ratio,
    )  # fmt: skip
    for step in steps:
        shape = step(text, inner)
        if shape is not None:
            return shape
    return _scalar(text, letters=letters)


def _without_wrapping(text: str) -> str:
    """Without one ``\\text{...}`` or pair of braces that holds everything."""
    for opening in ("\\text{", "{", "\\boxed {"):
        if text.startswith(opening) and closing_index(text, len(opening) - 1) == len(text) - 1:
            return text[len(opening) : -1].strip()
    return text


def _word(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    choice = CHOICE.fullmatch(text)
    if choice is not None:
        return Word(choice.group(1))
    if not WORDS.fullmatch(text) or JOINERS["or"].search(text) or JOINERS["and"].search(text):
        return None
    lower = text.lower()
    if lower == "empty set":
        return Group("{", "}", ())
    if lower in ("infinity", "inf"):
        return Scalar(Symbol("infty"))
    is_product = len(text) <= 3 and lower not in LITTLE_WORDS
    return None if is_product else Word(lower)


def _matrix(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    match = MATRIX.fullmatch(text)
    if match is None or match.group(3).strip() or "\\begin" in match.group(2):
        return None
    body = match.group(2).strip().removesuffix("\\cr").strip()
    if match.group(1) in ("cases", "aligned"):
        return Group("", "", tuple(inner(row.replace("&", "")) for row in body.split("\\cr ")))
    rows = [tuple(inner(cell) for cell in row.split("&")) for row in body.split("\\cr ")]
    if len({len(row) for row in rows}) != 1:
        raise Unreadable("rows of different length")
    if match.group(1) not in ("vmatrix", "Vmatrix"):
        return Matrix(tuple(rows))
    return Scalar(_determinant([[_node(cell) for cell in row] for row in rows]), None, text)


def _node(cell: Shape) -> Node:
    if not isinstance(cell, Scalar) or cell.unit is not None:
        raise Unreadable("an entry that is no formula")
    return cell.node


def _determinant(rows: list[list[Node]]) -> Node:
    """Expanded along the first row."""
    if len(rows) != len(rows[0]) or len(rows) > 4:
        raise Unreadable("a determinant that is not square or has more than 4 rows")
    if len(rows) == 1:
        return rows[0][0]
    terms: list[Node] = []
    for column, entry in enumerate(rows[0]):
        minor = _determinant([row[:column] + row[column + 1 :] for row in rows[1:]])
        term = Apply("mul", (entry, minor))
        terms.append(negated(term) if column % 2 else term)
    return Apply("add", tuple(terms))


def _vector(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    if not text.startswith("\\langle ") or not text.endswith("\\rangle") or text.count("\\langle ") > 1:
        return None
    return Group("<", ">", tuple(inner(part) for part in split_items(text[8:-7])))


def _joined(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    for joiner, pattern in JOINERS.items():
        parts = split_top(text, pattern)
        if len(parts) > 1:
            items = [item for part in parts for item in _items(inner(part.strip().strip(",")))]
            return Group("", "", tuple(items), joiner)
    return None


def _items(shape: Shape) -> tuple[Shape, ...]:
    """Items of a bare list; anything else is one item."""
    return shape.items if isinstance(shape, Group) and not shape.brackets else (shape,)


def _plus_minus(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    if "\\pm " not in text and "\\mp " not in text:
        return None
    upper = text.replace("\\pm ", "+").replace("\\mp ", "-")
    lower = text.replace("\\pm ", "-").replace("\\mp ", "+")
    return Group("", "", (*_items(inner(upper)), *_items(inner(lower))), "or")


def _listed(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    if "," not in text and ";" not in text:
        return None
    parts = split_items(text)
    if len(parts) < 2:
        return None
    return Group("", "", tuple(inner(part) for part in parts))


def split_items(text: str) -> list[str]:
    """Items between commas (or semicolons, when there are any) outside of brackets.

    Where some commas are followed by a blank, tight groups of three digits are thousands: ``1,000, 2,000``.
    """
    if ";" in text:
        return split_top(text, re.compile(";"))
    if re.search(r",\s", text) and re.search(r"[0-9],[0-9]{3}(?![0-9])", text):
        return split_top(text, re.compile(r",(?!(?<=[0-9],)[0-9]{3}(?![0-9]))"))
    return split_top(text, re.compile(","))


def _is_thousands(text: str) -> bool:
    match = THOUSANDS.fullmatch(text)
    return match is not None and not re.search(r",\s|,[0-9]{1,2}(?![0-9])|,[0-9]{4}|,[^0-9]", text)


def _relation(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    text = NOT_EQUAL.sub(lambda _: "\\neq ", text)
    found: list[str] = []
    sides = split_top(text, RELATION, found)
    if not found:
        return None
    ops = tuple(RELATIONS[op] for op in found)
    if any(not side.strip() for side in sides):
        raise Unreadable("a relation without a side")
    return Relation((_label_or(inner, sides[0], ops), *(_as_symbol(inner(side)) for side in sides[1:])), ops)


def _label_or(inner: Callable[[str], Shape], side: str, ops: tuple[str, ...]) -> Shape:
    """The left side; before a single ``=`` it may be a name that is no formula, such as ``\\angle ABC``."""
    try:
        return _as_symbol(inner(side))
    except Unreadable:
        if ops != ("=",) or not LABEL.fullmatch(side.strip()):
            raise
        return Word(side.strip())


def _as_symbol(shape: Shape) -> Shape:
    """In a relation a letter is a variable and no choice."""
    return Scalar(Symbol(shape.text), None, shape.text) if isinstance(shape, Word) else shape


def _set(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    parts = split_top(text, re.compile(r"\\cup "))
    if len(parts) > 1:
        return Union(tuple(inner(part) for part in parts))
    if text == "\\emptyset":
        return Group("{", "}", ())
    base, *without = split_top(text, re.compile(r"\\setminus |(?<=s )-(?= ?\\\{)"))
    name = base.strip().removeprefix("\\")
    if name not in NAMED_SETS:
        return None
    return NamedSet(name, tuple(item for part in without for item in _set_items(inner(part))))


def _set_items(shape: Shape) -> tuple[Shape, ...]:
    if isinstance(shape, Group) and shape.brackets in ("{}", ""):
        return shape.items
    raise Unreadable("what is taken out of a set is no list of points")


def _bracket(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    found = _inside(text)
    if found is None:
        return None
    left, body, right = found
    parts = split_items(body) if body.strip() else []
    if len(parts) < 2 and left != "{" and not (left == "[" and body.lstrip().startswith("[")):
        return None
    if left == "{" and (condition := PROPERTY.match(body)) is not None:
        return inner(body[condition.end() :])
    return Group(left, right, tuple(inner(part) for part in parts))


def _inside(text: str) -> tuple[str, str, str] | None:
    """Left sign, content and right sign when one pair of brackets holds all of ``text``."""
    if text.startswith("\\{"):
        return ("{", text[2:-2], "}") if closing_index(text, 1) == len(text) - 1 and text[-2] == "\\" else None
    if text[0] in "([" and closing_index(text, 0) == len(text) - 1:
        return text[0], text[1:-1], text[-1]
    outward = text[0] in "(]" and text[-1] in "[)" and not set(text[1:-1]) & set("()[]")
    return ({"]": "("}.get(text[0], text[0]), text[1:-1], {"[": ")"}.get(text[-1], text[-1])) if outward else None


def _ratio(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    parts = split_top(text, re.compile(":"))
    return Ratio(tuple(inner(part) for part in parts)) if 2 <= len(parts) <= 6 else None


def _scalar(text: str, *, letters: bool) -> Shape:
    based = read_based(text)
    if based is not None:
        return BasedNumber(*based)
    value, unit = split_unit(text, letters=letters)
    if value != text:
        value = _without_wrapping(value)
    numeral = read_numeral(value)
    if numeral is not None:
        return Scalar(numeral, unit, text)
    opaque = OPAQUE.search(value)
    return Opaque(text, opaque.group(1)) if opaque else Scalar(parse(value), unit, text)
