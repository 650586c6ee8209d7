r"""Answers refused before anything reads them: what only hurts, and no honest answer looks like.

Every check is one pass over at most ``MAX_CHARACTERS``. Values that are too large to compute (towers of
powers, factorials) are refused where they would be computed, in ``evaluate.py``.
"""

import re
import unicodedata

MAX_CHARACTERS = 2000
MAX_DEPTH = 64
MAX_DIGITS = 400
MAX_ELEMENTS = 200
BLANKS = " \t\r\n\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\u200b\u200c\u200d\u2060\ufeff"
"""Blank and zero-width characters that may trail an answer."""

DIGITS = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
FORBIDDEN = re.compile(
    r"\\(?:input|include|def|edef|gdef|xdef|let|csname|catcode|write|read|openin|openout|immediate|newcommand"
    r"|renewcommand|loop|expandafter|usepackage|href|url|special)(?![A-Za-z])"
)
CODE = re.compile(
    r"\.__[A-Za-z]+__|__[A-Za-z]+__\s?[(.\[]|(?<![\\A-Za-z0-9_])(?:import [A-Za-z_]+|lambda\b[^:\n]{0,80}:"
    r"|(?:exec|eval|open|print|system|getattr|compile|globals)\s{0,3}\()"
)
"""What only a program says: the marks and words that prose and LaTeX share with one (``;``, quotes, ``open``) pass."""
REPEATED_FACTORIAL = re.compile(r"!\s*!")
NUMERIC_FORMS = ("<super>", "<sub>", "<fraction>")
"""How Unicode marks the numerals outside of ASCII that ``characters.py`` maps."""


def trim(text: str) -> str:
    """Without blanks around it, zero-width ones included."""
    return text.strip(BLANKS)


def reason_to_refuse(text: str) -> str | None:
    """Why ``text`` (trimmed) is refused, or None. The word is one of a closed set, for counters."""
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
    """Digits of other scripts, control, bidirectional, zero-width, surrogate and private characters."""
    if character < "\x7f" or character in BLANKS[:11]:
        return False
    category = unicodedata.category(character)
    if category[0] == "N":
        return not unicodedata.decomposition(character).startswith(NUMERIC_FORMS)
    return category[0] == "C" or category in ("Zl", "Zp")


def _depth(text: str) -> int:
    """Deepest nesting of brackets of any kind."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest
