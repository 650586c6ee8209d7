r"""Reads normalised text as a shape, from the outermost structure inwards: list, relation, union, bracket, formula.

``read`` tries the steps of ``STEPS`` in order; each reads one kind of shape and calls back for its parts.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from rlserve.verifiers.math.notation.clock import read_clock
from rlserve.verifiers.math.notation.normalize import TEXT_GROUP
from rlserve.verifiers.math.notation.numerals import read_based, read_numeral
from rlserve.verifiers.math.notation.split import closing_index, split_top
from rlserve.verifiers.math.notation.units import Unit, parse_unit, split_unit
from rlserve.verifiers.math.notation.words import spelled_out
from rlserve.verifiers.math.read.matrices import read_matrix
from rlserve.verifiers.math.read.named_sets import read_named_set
from rlserve.verifiers.math.read.names import is_name_text
from rlserve.verifiers.math.read.parser import parse
from rlserve.verifiers.math.read.shapes import (
    BasedNumber,
    Group,
    NamedSet,
    Opaque,
    Ratio,
    Relation,
    Scalar,
    Shape,
    Union,
    Word,
)
from rlserve.verifiers.math.tree import Apply, Number, Symbol, Unreadable

MAX_DEPTH = 20
"""Shapes within shapes. Any value of this size will do: a list of points of fractions is three deep."""
# Commands that only math-verify computes, and derivatives in the notation of Leibniz.
OPAQUE = re.compile(
    r"\\(int|iint|oint|sum|prod|lim|det|partial|mod|pmod)(?![A-Za-z])"
    r"|\\(frac) ?\{ ?d(?: ?\^[^{}]{1,4})? ?\} ?\{ ?d[a-z]"
)
# "or" before "and", as in logic: "x = 1 and y = 2, or x = 3" is a choice of two. Ten languages that models answer in.
JOINERS = {
    "or": re.compile(
        r"\\text\{,? ?(?:or|ou|o|u|oder|\u0438\u043b\u0438|或|或者|または|또는)\}|\\vee |或者?|または|또는"
        r"|(?<![\w\\])(?:or|ou|oder|\u0438\u043b\u0438)(?![\w])"
    ),
    "and": re.compile(
        r"\\text\{,? ?(?:and|y|e|et|und|\u0438|和|与|及|以及)\}|\\wedge |以及|和|与|及"
        r"|(?<![\w\\])(?:and|et|und|\u0438)(?![\w])"
    ),
}
# "~" stands for relations that are never computed: their sides are compared one by one.
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "\\leq ": "<=", "\\geq ": ">=", "\\neq ": "!=", "\\approx ": "approx",
    "\\equiv ": "~", "\\sim ": "~", "\\simeq ": "~", "\\cong ": "~", "\\propto ": "~", "\\in ": "in",
    "\\notin ": "notin", "\\rightarrow ": "~", "\\to ": "~", "\\Rightarrow ": "~", "\\iff ": "~", "\\nless ": "~",
}  # fmt: skip
RELATION = re.compile(
    r"\\(?:leq|geq|neq|approx|equiv|simeq|sim|cong|propto|in|notin|rightarrow|to|Rightarrow|iff|nless) |[=<>]"
)
NOT_EQUAL = re.compile(r"\\not ?=")
CHOICE = re.compile(r"[(\[]?([A-Z])[)\]]?")
WORDS = re.compile(r"[^\W\d_][^\W\d_'-]*(?: [^\W\d_][^\W\d_'-]*)*")
THOUSANDS = re.compile(r"[-+]?(?:\\[a-z]+ )?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?(?:[^0-9,].*)?")
PROPERTY = re.compile(r" *([A-Za-z]) *(?:\\in ?\\(reals|integers|naturals|rationals|complexes) *)?[|:] *")
"""The head of ``{x | x > 3}``, which means the same as ``x > 3``."""
SPELLED_UNION = re.compile(r"(?<=[)\]}]) ?(?:\\text\{ ?(?:U|union) ?\}|U|union) ?(?=[(\[\\])")
TO = re.compile(r" ?\\text\{ ?(?:is )?to ?\} ?| ?-to- ?|(?<=[0-9a-z}]) (?:is )?to (?=[0-9a-z\\])|:|\\text\{ ?: ?\}|比")
OUT_OF = re.compile(r" ?\\text\{ ?(?:out of|in) ?\} ?|(?<=[0-9}]) (?:out of|in) (?=[0-9\\])")
PARAMETER = re.compile(
    r"(.+?),? ?(?:\\text\{,? ?(?:where|for|with)(?: all| any| some)? ?\}|,? (?:where|for|with)(?: all| any| some)? )?"
    r" ?\(? ?([a-z](?: ?, ?[a-z])* ?\\in [^()]+?)\)?"
)
r"""``2k\pi (k \in \mathbb{Z})``: a value, and the set of its letter."""
SCALED = re.compile(r"(-|-?(?:[0-9.{}/*]|\\(?:frac|sqrt) )+) ?(\((?=[^()]*,)[^()]*\)|\\langle [^()]*\\rangle)")
FEET = re.compile(r"([0-9]+) ?' ?([0-9]+(?:\.[0-9]+)?) ?(?:''|\")")
SINGLE_UNIT = re.compile(
    r" ?(?:,|(?:\\text\{)? ?and ?\}?)? ?([0-9]+(?:\.[0-9]+)?) ?(?:\\text\{ ?([A-Za-z]+)\.?(?: and)? ?\}|([A-Za-z]+)\.?)"
)
NAMED_SETS = ("reals", "integers", "naturals", "rationals", "complexes")
# Up to three letters are read as a product ("abc"), except for these.
LITTLE_WORDS = frozenset(("yes", "no", "true", "false", "odd", "even", "none", "dne", "nan", "inf", "am", "pm", "up"))


def read(normal: str, *, letters: bool = False, thousands: bool = True, depth: int = 0) -> Shape:
    """Return the shape that ``normal`` writes. Raises Unreadable.

    ``letters``: see ``units.split_unit``. ``thousands`` reads ``100,200`` as one number and not as two.
    """
    if depth > MAX_DEPTH:
        raise Unreadable("nested too deep")
    text = _without_wrapping(normal.strip())
    if not text:
        raise Unreadable("empty")
    # Sets in words come first: "all real numbers except 1, 2" would be split at its comma.
    if (named := read_named_set(text, lambda part: read(part, depth=depth + 1))) is not None:
        return named
    # In \text{...} two or three letters are a word; outside of it they would be a product.
    if normal.startswith("\\text{") and WORDS.fullmatch(text) and 1 < len(text) <= 3:
        return Word(text.lower())

    def inner(part: str) -> Shape:
        return read(part, letters=letters, thousands=thousands, depth=depth + 1)

    if thousands and _is_thousands(text):
        return _scalar(text, letters=letters)
    for step in STEPS:
        shape = step(text, inner)
        if shape is not None:
            return shape
    return _scalar(text, letters=letters)


def _without_wrapping(text: str) -> str:
    """Return ``text`` without one ``\\text{...}`` or pair of braces around all of it."""
    for opening in ("\\text{", "{", "\\boxed {"):
        if text.startswith(opening) and closing_index(text, len(opening) - 1) == len(text) - 1:
            return text[len(opening) : -1].strip()
    return text


def _clock(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    return read_clock(text)


def _word(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    # A capital alone may be a variable too; in a relation ``_as_symbol`` makes one of it.
    choice = CHOICE.fullmatch(text)
    if choice is not None:
        return Word(choice.group(1))
    if not WORDS.fullmatch(text) or JOINERS["or"].search(text) or JOINERS["and"].search(text):
        return None
    lower = text.lower()
    if lower in ("infinity", "inf"):
        return Scalar(Symbol("infty"))
    is_product = len(text) <= 3 and text.isascii() and lower not in LITTLE_WORDS
    return None if is_product else Word(lower)


def _spelled(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    """Rewrite words for operations and scales as operations: ``6 hundred``, ``5 squared``."""
    written = spelled_out(text)
    return inner(written) if written != text else None


def _several_units(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    """Read ``2 hours 30 minutes``: one quantity in two or three units of the same kind, the largest first."""
    feet = FEET.fullmatch(text)
    if feet is not None:
        return inner(f"{feet.group(1)} feet {feet.group(2)} inches")
    index, total = 0, Fraction(0)
    units: list[Unit] = []
    while index < len(text):
        part = SINGLE_UNIT.match(text, index)
        unit = parse_unit(f"\\text{{{part.group(2) or part.group(3)}}}") if part is not None else None
        if part is None or unit is None or unit.words or len(unit.dimension) != 1 or len(units) == 3:
            return None
        if units and (unit.dimension != units[0].dimension or unit.factor >= units[-1].factor):
            return None  # "5 cm 3 cm" is two lengths
        units.append(unit)
        total += Fraction(part.group(1)) * unit.factor
        index = part.end()
    return Scalar(Number(total / units[0].factor), units[0], text) if len(units) > 1 else None


def _vector(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    if not text.startswith("\\langle ") or not text.endswith("\\rangle") or text.count("\\langle ") > 1:
        return None
    return Group("<", ">", tuple(inner(part) for part in split_items(text[8:-7])))


def _scaled(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    """Read ``2(1, 2)``: a point or vector times a number."""
    match = SCALED.fullmatch(text)
    if match is None:
        return None
    group = inner(match.group(2))
    if not isinstance(group, Group) or group.brackets not in ("()", "<>"):
        return None
    items = [item.node for item in group.items if isinstance(item, Scalar) and item.unit is None]
    if len(items) != len(group.items):
        return None
    factor = parse("-1" if match.group(1).strip() == "-" else match.group(1).strip().removesuffix("*"))
    return Group(group.left, group.right, tuple(Scalar(Apply("mul", (factor, item))) for item in items))


def _joined(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    for joiner, pattern in JOINERS.items():
        parts = split_top(text, pattern)
        if len(parts) > 1:
            items = [item for part in parts for item in _items(inner(part.strip().strip(",")))]
            return Group("", "", tuple(items), joiner)
    return None


def _items(shape: Shape) -> tuple[Shape, ...]:
    """Return the items of a bare list; anything else is one item."""
    return shape.items if isinstance(shape, Group) and not shape.brackets else (shape,)


def _plus_minus(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    if "\\pm " not in text and "\\mp " not in text:
        return None
    # All signs change together: a \pm b \mp c has two values and not four.
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


def _parameter(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    """Read ``x = 2k\\pi (k \\in \\mathbb{Z})`` as the list of both."""
    if "\\in " not in text or not text.endswith(")"):
        return None
    match = PARAMETER.fullmatch(text)
    return None if match is None else Group("", "", (inner(match.group(1)), inner(match.group(2))))


def split_items(text: str) -> list[str]:
    """Split at commas (or at semicolons, when there are any) outside of brackets.

    Where a blank stands behind some commas, tight groups of three digits are thousands: ``1,000, 2,000``.
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
    if found[0] == "\\approx " and not sides[0].strip() and len(sides) == 2:
        return inner(sides[1])  # "\approx 3.14": a rounded value without its name
    # A side is missing: "> 5" names no variable, and "5 =" is cut off.
    if any(not side.strip() for side in sides):
        raise Unreadable("a relation without a side")
    return Relation((_label_or(inner, sides[0], ops), *(_as_symbol(inner(side)) for side in sides[1:])), ops)


def _label_or(inner: Callable[[str], Shape], side: str, ops: tuple[str, ...]) -> Shape:
    """Read the left side; in an equation it may be a name that is no formula, such as ``\\angle ABC`` or ``P(X=2)``."""
    if not set(ops) <= {"=", "approx", "in"}:
        return _as_symbol(inner(side))
    # A formula first, a name second: "2x" must stay a formula, and P(X=2) cannot be read as one.
    try:
        shape = _as_symbol(inner(side))
    except Unreadable:
        shape = Opaque("", "")
    is_formula = isinstance(shape, Scalar | Group | Word) and not (isinstance(shape, Group) and shape.joiner == "cap")
    if not is_formula and is_name_text(side):
        return Word(TEXT_GROUP.sub(r"\1", side).strip())
    if isinstance(shape, Opaque):
        raise Unreadable("a left side that is neither a formula nor a name")
    return shape


def _as_symbol(shape: Shape) -> Shape:
    """Turn a letter into a variable: in a relation it cannot be a choice."""
    return Scalar(Symbol(shape.text), None, shape.text) if isinstance(shape, Word) else shape


def _set(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    parts = split_top(SPELLED_UNION.sub("\\\\cup ", text), re.compile(r"\\cup "))
    if len(parts) > 1:
        return Union(tuple(inner(part) for part in parts))
    if text == "\\emptyset":
        return Group("{", "}", ())
    common = split_top(text, re.compile(r"\\cap "))
    if len(common) > 1:
        return Group("", "", tuple(inner(part) for part in common), "cap")
    base, *without = split_top(text, re.compile(r"\\setminus |(?<=s )-(?= ?\\\{)"))
    name = base.strip().removeprefix("\\")
    if name not in NAMED_SETS:
        return None
    return NamedSet(name, tuple(item for part in without for item in _set_items(inner(part))))


def _set_items(shape: Shape) -> tuple[Shape, ...]:
    if isinstance(shape, Group) and shape.brackets in ("{}", ""):
        return shape.items
    raise Unreadable("only a list of points can be taken out of a set")


def _bracket(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    found = _inside(text)
    if found is None:
        return None
    left, body, right = found
    parts = split_items(body) if body.strip() else []
    # One item in brackets is a grouping, "(x+1)", and left to the parser: except in braces, where it is a set, and
    # "[[1, 2]]", a matrix of one row.
    if len(parts) == 1 and left + right == "()" and "\\text{" in body:
        return inner(body)
    if len(parts) < 2 and left != "{" and not (left == "[" and body.lstrip().startswith("[")):
        return None
    if left == "{" and (condition := PROPERTY.match(body)) is not None:
        condition_shape = inner(body[condition.end() :])
        if condition.group(2) in (None, "reals"):
            return condition_shape
        member = Relation((Scalar(Symbol(condition.group(1))), NamedSet(condition.group(2))), ("in",))
        return Group("", "", (member, *_items(condition_shape)), "and")
    return Group(left, right, tuple(inner(part) for part in parts))


def _inside(text: str) -> tuple[str, str, str] | None:
    """Return left sign, content and right sign when one pair of brackets encloses all of ``text``."""
    if text.startswith("\\{"):
        return ("{", text[2:-2], "}") if closing_index(text, 1) == len(text) - 1 and text[-2] == "\\" else None
    if text[0] in "([" and closing_index(text, 0) == len(text) - 1:
        return text[0], text[1:-1], text[-1]
    # ``]1, 2[``: open ends in the notation of Bourbaki.
    outward = text[0] in "(]" and text[-1] in "[)" and not set(text[1:-1]) & set("()[]")
    return ({"]": "("}.get(text[0], text[0]), text[1:-1], {"[": ")"}.get(text[-1], text[-1])) if outward else None


def _ratio(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    quotient = split_top(text, OUT_OF)
    if len(quotient) == 2:
        sides = [inner(part) for part in quotient]
        nodes = [side.node for side in sides if isinstance(side, Scalar) and side.unit is None]
        return Scalar(Apply("div", tuple(nodes)), None, text) if len(nodes) == 2 else None
    parts = split_top(text, TO)
    return Ratio(tuple(inner(part) for part in parts)) if 2 <= len(parts) <= 6 else None


def _scalar(text: str, *, letters: bool) -> Shape:
    # A base before units and numerals: "1010_2" would otherwise be a numeral with something behind it.
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
    if opaque is None:
        return Scalar(parse(value), unit, text)
    if unit is not None and unit.percent:
        raise Unreadable("a percentage of a formula beyond the reader")  # an Opaque has no unit to keep it in
    return Opaque(value, opaque.group(1) or "derivative")


STEPS: tuple[Callable[[str, Callable[[str], Shape]], Shape | None], ...] = (
    _clock, _word, _spelled, read_matrix, _vector, _scaled, _several_units, _joined, _plus_minus, _parameter, _listed,
    _relation, _set, _bracket, _ratio,
)  # fmt: skip
"""Readers of one kind of shape each, outermost first; the first that recognises its kind decides.

The order matters: times of day before ratios (``4:30``), words before lists, ``or`` and ``and`` before commas, commas
before relations (``x = 1, y = 2``), relations before sets and brackets (``x \\in [1, 2]``), ratios last.
"""
