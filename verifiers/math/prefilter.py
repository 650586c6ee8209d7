r"""Refuses answers that no honest model writes and that would be costly or unsafe to read.

Every check is one pass over at most ``MAX_CHARACTERS``. Values that are too large to compute (towers of
powers, factorials) are refused where they would be computed, in ``evaluate.py``.
"""

import re
import unicodedata

MAX_CHARACTERS = 2000
"""Of an answer. Any value of this size will do: the answers of the usual data sets are far shorter."""
MAX_DEPTH = 64
"""Nested brackets. Far below Python's recursion limit, which the parser would meet at a few frames a level."""
MAX_DIGITS = 400
"""Digits in a row. Any value of this size will do: 2**1000 has 302, and Python refuses ``int`` of more than 4,300."""
MAX_ELEMENTS = 200
"""Of a list, matrix or union: they may be compared each with each, so that the time grows with the square."""
BLANKS = " \t\r\n\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\u200b\u200c\u200d\u2060\ufeff"
"""Blank and zero-width characters that may trail an answer."""

DIGITS = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
# TeX that reads files, defines macros or loops: no answer needs it, so no reader has to guard against it.
FORBIDDEN = re.compile(
    r"\\(?:input|include|def|edef|gdef|xdef|let|csname|catcode|write|read|openin|openout|immediate|newcommand"
    r"|renewcommand|loop|expandafter|usepackage|href|url|special)(?![A-Za-z])"
)
CODE = re.compile(
    r"\.__[A-Za-z]+__|__[A-Za-z]+__\s?[(.\[]|(?<![\\A-Za-z0-9_])(?:import [A-Za-z_]+|lambda\b[^:\n]{0,80}:"
    r"|(?:exec|eval|open|print|system|getattr|compile|globals)\s{0,3}\()"
)
"""Text found in programs only. Marks and words that prose and LaTeX share with programs (``;``, ``open``) pass."""
# 9!! is the double factorial for a reader and (9!)! for a parser, which is too large to compute.
REPEATED_FACTORIAL = re.compile(r"!\s*!")
NUMERIC_FORMS = ("<super>", "<sub>", "<fraction>")
"""The Unicode decompositions of the numerals outside of ASCII that ``characters.py`` maps to TeX."""


def trim(text: str) -> str:
    """Return ``text`` without blanks around it, zero-width ones included."""
    return text.strip(BLANKS)


def reason_to_refuse(text: str) -> str | None:
    """Return why trimmed ``text`` is refused, or None. The reasons are a closed set, so that they can be counted."""
    # Length first: it bounds the cost of all checks behind it.
    if len(text) > MAX_CHARACTERS:
        return "too long"
    if not text.isascii() and any(_is_unsafe(character) for character in text):
        return "unusual characters"
    if any((character < " " and character not in "\t\n\r") or character == "\x7f" for character in text):
        return "unusual characters"
    if FORBIDDEN.search(text):
        return "forbidden command"
    if CODE.search(text):
        return "code"
    if DIGITS.search(text):
        return "too many digits"
    if REPEATED_FACTORIAL.search(text):
        return "repeated factorial"
    if text.count(",") + text.count("&") + text.count("\\cup") >= MAX_ELEMENTS:
        return "too many elements"
    return "too deep" if _depth(text) > MAX_DEPTH else None


def _is_unsafe(character: str) -> bool:
    """True for digits of other scripts, control, bidirectional, zero-width, surrogate and private characters."""
    if character < "\x7f" or character in BLANKS[:11]:
        return False
    category = unicodedata.category(character)
    # Python's int() reads digits of every script, so an Arabic 5 would be 5 for some readers and unknown to others.
    if category[0] == "N":
        return not unicodedata.decomposition(character).startswith(NUMERIC_FORMS)
    return category[0] == "C" or category in ("Zl", "Zp")


def _depth(text: str) -> int:
    """Return the deepest nesting of brackets of any kind; they need not match."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest
