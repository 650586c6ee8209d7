r"""Finds formulas and numbers in prose, with or without dollar signs: ``they meet at (1, 2)``, ``f is x^2+1``.

A run is the longest stretch of mathematics between words. All functions are linear in the length of the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rlserve.verifiers.math.extract.prose import is_expression

# A formula ends where another one opens: without that, unclosed ones cost quadratic time.
FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(((?:[^\\]|\\[^()\[\]])+)\\\)|\\\[((?:[^\\]|\\[^()\[\]])+)\\\]")
# Thousands: 1{,}000, 1,000 and 1 000 with any of the blanks of LaTeX and Unicode.
GROUPED = r"(?:\{,\}[0-9]{3})+|(?:,[0-9]{3})+|(?:(?:[ \u00a0\u2009\u202f~]|\\[ ,:;]|\\thinspace )[0-9]{3})+"
NUMBER = (
    r"(?:\\?\$ ?|[\u20ac\u00a3\u00a5])?(?<![A-Za-z0-9_])"
    r"(?:[0-9]{1,3} (?=[0-9]{1,3}/[0-9]{1,3}(?![0-9/]))[0-9]{1,3}|"  # 1 1/2
    rf"[0-9]{{1,3}}(?:{GROUPED})(?![0-9])|[0-9]{{1,400}}|(?=\.[0-9]))"
    r"(?:\.[0-9]{1,400})?(?:\.\.\.|\u2026|\\l?dots(?![A-Za-z]))?(?:[eE][-+]?[0-9]{1,5}(?![A-Za-z0-9]))?"
    r"(?:\s?/\s?[0-9]{1,400})?(?:\s?\\?%)?"
)
GROUP_BLANKS = re.compile(r"(?<=[0-9])(?:[ \u00a0\u2009\u202f~]|\\[ ,:;]|\\thinspace )(?=[0-9]{3})")
# "3 x 10^5": an x that multiplies, which the pattern of a letter would read as a variable.
TIMES = r"(?:(?<=[0-9])|(?<=[0-9] ))[xX](?=\s?10\s?(?:\^|\*\*|[\u00b2\u00b3\u2070-\u207b]))"
FUNCTIONS = r"(?:sqrt|a?sinh?|a?cosh?|a?tanh?|arc(?:sin|cos|tan)|log|ln|exp|pi|infinity|cot|sec|csc)(?![A-Za-z])"
# The order of the alternatives decides: numbers before signs ("$5"), \text{...} before other commands, a lone letter
# (a variable) before a word. ``other`` matches any character, so that each position has a token and time is linear.
TOKEN = re.compile(
    rf"(?P<number>{NUMBER})|(?P<box>\\(?:boxed|fbox|framebox)(?:\{{[^{{}}]*\}})?)|(?P<text>\\(?:text\w*|mbox|math(?:rm|bf|it)|operatorname)\s*\{{[^{{}}]*\}})"
    rf"|(?P<command>\\(?:begin|end)\{{[a-zA-Z*]{{1,20}}\}}|\\[A-Za-z]+|(?<![A-Za-z]){FUNCTIONS}|{TIMES}"
    r"|[\u221a\u03c0\u221e\u2205\u2211\u222b\u03b1-\u03c9\u00bd\u00bc\u00be\u2153\u2154])"
    r"|(?P<letter>(?<![A-Za-z'\u2019])[A-Za-z](?![A-Za-z'\u2019]))|(?P<word>[^\W\d_\u00b2\u00b3\u00b9\u2070-\u208e]+)|(?P<open>\\\{|[(\[{])"
    r"|(?P<close>\\\}|[)\]}])|(?P<comma>[,;])"
    r"|(?P<sign>[-+*/^_=<>|!:\u2212\u00d7\u00b7\u22c5\u00f7\u00b1\u2264\u2265\u2260\u2248\u222a\u2229\u2208\u00b0\u00b2"
    r"\u00b3\u00b9\u2070-\u208e&]|\\[,;:! |]|\\\\)|(?P<blank>[ \t\u00a0]+)|(?P<other>.)",
    re.DOTALL,
)
EDGE = " \t*/:,;&~|^_\u00b7\u00d7"
BRACKETS = {")": "([", "]": "([", "}": "{"}
# "5 + 3" with nothing equal to it: the writer calculates, and the answer is the last number.
ARITHMETIC = re.compile(r"[-+]?\s*[0-9.,]+(?:\s*[-+\u2212]\s*[0-9.,]+)+")
LAST_NUMBER = re.compile(r"[0-9][0-9.,]*$")
# "5m" and "5g": the letter of a unit, without which "5m" is a product and no gold answer.
LETTERS_OF_UNITS = re.compile(r"([-\u2212]?[0-9][0-9.,]*)[mgshlLNJWVAK]")
SIMPLE_NAME = re.compile(r"[A-Za-z](?:_\{?\w{1,6}\}?)?\s*(?:\([^()=]{0,20}\))?\s*")
# A run must hold one of these to be a value; without, "a" or "I" between words would be one.
VALUE = re.compile(
    r"[0-9]|\\[A-Za-z]|[\u221a\u03c0\u221e\u2205\u00bd\u00bc\u00be\u2153\u2154]|[A-Za-z)}]\s*[=^+*_<>]|pi|infinity"
)


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of mathematics: its place in the text, and its value without signs that only surround it."""

    start: int
    end: int
    text: str


@dataclass(slots=True)
class _Open:
    """An unfinished run."""

    start: int
    end: int
    depth: int = 0
    operand: bool = False
    """The last token is an operand."""
    blank: bool = False
    """A blank stands behind the last token."""


def runs(text: str) -> Iterator[Run]:
    """Yield the runs of a text that contain a value, in order."""
    run: _Open | None = None
    position = 0
    while position < len(text):
        formula = FORMULA.match(text, position) if text[position] in "$\\" else None
        content = "" if formula is None else next(group for group in formula.groups() if group is not None)
        # "$5 and $6" looks like a formula between two dollar signs: with prose in it these are currencies.
        if formula is not None and is_expression(" ".join(content.split())):
            yield from _finished(text, run)
            run = None
            yield from _formula(formula, content)
            position = formula.end()
            continue
        token = TOKEN.match(text, position)
        assert token is not None
        position = token.end()
        kind = str(token.lastgroup)
        if _breaks(kind, token.group(), run):
            yield from _finished(text, run)
            run = None
        if kind not in ("blank", "word", "box", "other", "comma") or run is not None:
            run = _extended(run, kind, token)
    yield from _finished(text, run)


def last_formula(text: str) -> str | None:
    """Return the content of the last delimited formula, even without a value: ``$C$``."""
    found = [next(group for group in match.groups() if group is not None) for match in FORMULA.finditer(text)]
    return next((content.strip() for content in reversed(found) if is_expression(content.strip())), None)


def _formula(match: re.Match[str], content: str) -> Iterator[Run]:
    value = _value(content.strip(" \t\n.,;"))
    if value and VALUE.search(value):
        yield Run(match.start(), match.end(), value)


def _breaks(kind: str, token: str, run: _Open | None) -> bool:
    if run is None or kind in ("word", "box", "other"):
        return True
    if kind == "comma":
        return run.depth == 0
    # Two operands with a blank between them are two runs ("2 3"), except in brackets, where "(1 2)" is one.
    after_blank = run.blank and run.operand and run.depth == 0
    return after_blank and kind in ("number", "letter", "open") and token != "{"


def _extended(run: _Open | None, kind: str, token: re.Match[str]) -> _Open | None:
    if kind in ("word", "box", "other", "comma") and (run is None or not run.depth):
        return None
    run = run or _Open(token.start(), token.end())
    if kind == "blank":
        run.blank = True
        return run
    run.depth = max(0, run.depth + {"open": 1, "close": -1}.get(kind, 0))
    run.operand = kind in ("number", "letter", "close")
    run.blank = False
    run.end = token.end()
    return run


def _finished(text: str, run: _Open | None) -> Iterator[Run]:
    if run is None or (text[run.start] in "^_" and text[max(0, run.start - 1)].isalpha()):
        return  # nothing, or the power of a unit: the "^2" of "5 cm^2"
    value = _value(_without_joints(_balanced(text[run.start : run.end])))
    if value and VALUE.search(value):
        yield Run(run.start, run.end, value)


def _without_joints(text: str) -> str:
    """Return ``text`` without signs that only join it to the words around it."""
    text = re.sub(r"^\s*[0-9]+:\s+(?=\S)", "", text)  # "Step 2: 12"
    text = re.sub(r"^\s*(?:[-\u2212>]\s+|[=\u2248]\s*)+", "", text.strip(EDGE)).strip(EDGE)
    before = ""
    while text != before:  # "5 =\," ends in a sign, a command and a blank in turn
        before = text
        text = text.rstrip(" \t\n-+=<>!\u2212")
        text = text[:-2] if text[-2:-1] == "\\" and text[-1] in ",;:" else text
    return text


def _value(text: str) -> str:
    """Return the last side of a chain of numbers, the last number of a sum without a result, else ``text``."""
    sides = _sides(text)
    # "2+3 = 5" is 5; "x = 5" stays a relation, since its name may be compared.
    if (
        len(sides) > 1
        and sides[-1].strip()
        and not SIMPLE_NAME.fullmatch(sides[0])
        and not re.search("[a-zA-Z]", sides[0])
    ):
        text = sides[-1].strip()
    if len(sides) == 1 and ARITHMETIC.fullmatch(text) and (number := LAST_NUMBER.search(text)):
        # "-5" has no number in front of its sign, which therefore belongs to the value.
        negative = not re.search("[0-9]", text[: number.start()])
        text = text if negative else number.group()
    if unit := LETTERS_OF_UNITS.fullmatch(text):
        text = unit[1]
    return GROUP_BLANKS.sub("", text)


def _sides(text: str) -> list[str]:
    """Split ``text`` at equals signs outside of brackets."""
    sides, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "=" and depth == 0:
            sides.append(text[start:index])
            start = index + 1
    return [*sides, text[start:]]


def _balanced(text: str) -> str:
    """Cut ``text`` at brackets without a partner: keep the part that contains a value, the left one first."""
    opened: list[tuple[int, str]] = []
    begin, end = 0, len(text)
    for index, character in enumerate(text):
        if character in "([{":
            opened.append((index, character))
        elif character in BRACKETS:
            if not opened and VALUE.search(text[begin:index]):
                end = index
                break
            if not opened:
                begin = index + 1
            elif opened[-1][1] in BRACKETS[character]:
                opened.pop()
    if opened:
        first = opened[0][0]
        begin, end = (begin, first) if VALUE.search(text[begin:first]) else (opened[-1][0] + 1, end)
    return text[begin:end].strip().removesuffix("\\")
