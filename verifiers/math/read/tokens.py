"""Splits normalised text into tokens, in linear time: each position is matched once, without recursion."""

import re
from dataclasses import dataclass

from rlserve.verifiers.math.notation.normalize import FUNCTIONS, TEXT_GROUP, vocabulary
from rlserve.verifiers.math.notation.numerals import NUMERAL, number_of
from rlserve.verifiers.math.tree import Number, Unreadable

COMMAND = re.compile(r"\\([A-Za-z]+|[{}])")
WORD = re.compile(r"[A-Za-z]+")
PUNCTUATION = "+-*/^_!(){}[]|',"
NAMES = FUNCTIONS | vocabulary("pi arcsinh arccosh arctanh arccot coth")


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``kind`` is number, symbol, command or one of the punctuation characters."""

    kind: str
    text: str = ""
    number: Number | None = None
    spaced: bool = False
    """A blank stood before it."""


def tokenize(normal: str) -> list[Token]:
    """Return the tokens of a formula. Raises Unreadable at a character that no formula contains."""
    tokens: list[Token] = []
    index, spaced = 0, False
    while index < len(normal):
        if normal[index] == " ":
            index, spaced = index + 1, True
            continue
        found, index = _at(normal, index, spaced)
        tokens.extend(found)
        spaced = False
    return tokens


def _at(normal: str, index: int, spaced: bool) -> tuple[list[Token], int]:
    numeral = NUMERAL.match(normal, index)
    if numeral is not None and numeral.end() > index:  # "." alone matches too, and is empty
        number = number_of(numeral)
        if number is None:
            raise Unreadable("a numeral that cannot be read")
        return [Token("number", numeral.group(), number, spaced)], numeral.end()
    text = TEXT_GROUP.match(normal, index)
    if text is not None:
        return [_letter(text.group(1).strip(), spaced)], text.end()
    command = COMMAND.match(normal, index)
    if command is not None:
        return [Token("command", command.group(1), None, spaced)], command.end()
    word = WORD.match(normal, index)
    if word is not None:
        return _word(word.group(), spaced), word.end()
    if normal[index] in PUNCTUATION:
        return [Token(normal[index], normal[index], None, spaced)], index + 1
    raise Unreadable(f"a character that no formula has: {normal[index]!a}")


def _letter(content: str, spaced: bool) -> Token:
    if len(content) == 1 and content.isascii() and content.isalpha():
        return Token("symbol", content, None, spaced)
    raise Unreadable("words inside a formula")


def _word(word: str, spaced: bool) -> list[Token]:
    """Return a known function's name as a command; the letters of any other word are variables to be multiplied."""
    if word in NAMES:
        return [Token("command", word, None, spaced)]
    return [Token("symbol", letter, None, spaced and index == 0) for index, letter in enumerate(word)]
