r"""Reads sets given by name: ``\text{all real numbers}``, ``no solution``, ``\mathbb{R}^+``."""

import re
from collections.abc import Callable
from fractions import Fraction

from rlserve.verifiers.math.notation.normalize import TEXT_GROUP
from rlserve.verifiers.math.read.shapes import Group, NamedSet, Scalar, Shape, Word
from rlserve.verifiers.math.tree import Number, Symbol, negated

SET = re.compile(
    r"(?:[a-z] (?:is|can be|may be) )?"
    r"(?P<all>(?:the )?(?:set of )?(?:all|any|every)(?: of)?(?: the)? |(?:the )?set of )?(?:the )?"
    r"(?P<sign>positive |negative |non-?negative |non-?positive )?"
    r"(?P<name>real|integer|rational|natural|complex)"
    r"(?P<noun>s| numbers?| values?(?: of [a-z])?| (?=[a-z]$))?(?: ?[a-z])?"
    r"(?:,? (?:except|excluding|but|other than|without|not equal to)(?: for)? (?P<without>.+))?",
    re.IGNORECASE,
)
EMPTY = re.compile(
    r"(?:there (?:is|are|exists?) )?no (?:(?:real|such|valid|possible|integer|integral) )*"
    r"(?:solutions?|roots?|values?|zeros?|intersections?)(?: exists?)?"
    r"|(?:the )?(?:empty|null) set|none|has no (?:real )?solutions?"
    r"|\u65e0\u89e3|\u7121\u89e3|\u65e0\u5b9e\u6570\u89e3|\u7a7a\u96c6|\u89e3\u306a\u3057|\ud574\uac00 \uc5c6\ub2e4",
    re.IGNORECASE,
)
# A limit that does not exist is not the empty set: it becomes the word "dne".
MISSING = re.compile(r"(?:the )?(?:limit )?(?:dne|does not exist|doesn't exist)", re.IGNORECASE)
ALL_WITH = re.compile(r"(?:for )?all (?:values of |real )?(?=[a-z] ?(?:[<>]|\\leq|\\geq|\\neq))", re.IGNORECASE)
SIGNED = re.compile(r"\\(reals|integers|rationals) ?(?:\^|_) ?(?:\{ ?)?(?:([+*-])|\\geq ?0|> ?0|< ?0)(?: ?\})?")
NAMES = {"real": "reals", "integer": "integers", "rational": "rationals", "natural": "naturals", "complex": "complexes"}
SIGNS = {"positive": "+", "negative": "-", "nonnegative": "0+", "nonpositive": "0-"}
# The ends of the intervals that stand for positive and negative reals.
ZERO, INFINITY = Scalar(Number(Fraction(0))), Scalar(Symbol("infty"))
MINUS_INFINITY = negated(Symbol("infty"))


def read_named_set(text: str, inner: Callable[[str], Shape]) -> Shape | None:
    """Return the set that ``text`` (normalised) names, or None. A limit that does not exist becomes a word."""
    signed = SIGNED.fullmatch(text)
    if signed is not None:
        mark = signed.group(2) or ("0+" if "geq" in text else "+" if ">" in text else "-")
        return _signed(signed.group(1), mark)
    if not text.isascii() and EMPTY.fullmatch(text):
        return Group("{", "}", ())
    # A shortcut: nearly all answers are one word and end here, before the slow patterns.
    if " " not in text and text.lower() != "dne" and not text.lower().endswith(("reals", "integers", "none")):
        return None
    plain = re.sub(" +", " ", TEXT_GROUP.sub(r" \1 ", text)).strip()
    if EMPTY.fullmatch(plain):
        return Group("{", "}", ())
    if MISSING.fullmatch(plain):
        return Word("dne")
    condition = ALL_WITH.match(plain)
    if condition is not None:
        return inner(plain[condition.end() :])
    match = SET.fullmatch(plain)
    if match is None or not (match["all"] or (match["noun"] or "").strip() in ("s", "numbers", "values")):
        return None
    name = NAMES[match["name"].lower()]
    if match["without"]:
        excluded = inner(re.sub(r"^[a-z] ?= ?", "", match["without"]))
        items = excluded.items if isinstance(excluded, Group) and excluded.brackets in ("", "{}") else (excluded,)
        return NamedSet(name, items) if not match["sign"] else None
    return _signed(name, SIGNS[match["sign"].strip().lower().replace("-", "")]) if match["sign"] else NamedSet(name)


def _signed(name: str, mark: str) -> Shape:
    """Return positive or negative reals as an interval, other numbers as a set with the sign in its name."""
    if mark == "*":
        return NamedSet(name, (ZERO,))
    if name != "reals":
        return NamedSet(f"{name} {mark}")
    bracket = "[" if mark.startswith("0") else "("
    if mark.endswith("+"):
        return Group(bracket, ")", (ZERO, INFINITY))
    return Group("(", "]" if mark.startswith("0") else ")", (Scalar(MINUS_INFINITY), ZERO))
