"""Arithmetic expressions, parsed and computed exactly, without ``eval``."""

import re
from fractions import Fraction

MAX_CHARACTERS = 500
"""Far above an expression over a few numbers; bounds the time for hostile ones."""
MAX_DEPTH = 50
"""Nested brackets; below Python's recursion limit."""
# At most 12 digits, and no letters or dots: no names, no powers, no huge numbers.
TOKEN = re.compile(r"\s*(?:(\d{1,12})|([-+*/()]))")


class NoExpression(ValueError):
    """The text is not an expression of numbers, ``+ - * /`` and brackets."""


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """The value and the numbers in order. Raises NoExpression, also for a division by zero."""
    # The signs that models write for times, divided by and minus.
    parser = _Parser(_tokens(text.replace("\u00d7", "*").replace("\u00f7", "/").replace("\u2212", "-")))
    value = parser.sum(0)
    if not parser.at_end:
        raise NoExpression("something follows the expression")
    return value, parser.numbers


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_CHARACTERS:
        raise NoExpression(f"longer than {MAX_CHARACTERS} characters")
    tokens, position = [], 0
    text = text.strip()
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise NoExpression(f"{text[position : position + 10]!a} is not part of an expression")
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over three rules by rising precedence: ``sum``, ``_product``, ``_unit``.

    Example: of ``2*(3+4)`` the parser returns 14 from ``sum(0)``, with ``numbers`` [2, 3, 4] and ``at_end`` true.
    """

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0
        self.numbers: list[int] = []

    @property
    def at_end(self) -> bool:
        """True once every token is read."""
        return self._place == len(self._tokens)

    def sum(self, depth: int) -> Fraction:
        """Parse a sum; ``depth`` counts the brackets around it."""
        value = self._product(depth)
        while (sign := self._take("+", "-")) is not None:
            other = self._product(depth)
            value = value + other if sign == "+" else value - other
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._unit(depth)
        while (sign := self._take("*", "/")) is not None:
            other = self._unit(depth)
            if sign == "/" and not other:
                raise NoExpression("a division by zero")
            value = value * other if sign == "*" else value / other
        return value

    def _unit(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise NoExpression("brackets are too deep")
        if self._take("(") is not None:
            value = self.sum(depth + 1)
            if self._take(")") is None:
                raise NoExpression("a bracket is not closed")
            return value
        if self._take("-") is not None:
            # Counts as depth: a row of minus signs would recurse as brackets do.
            return -self._unit(depth + 1)
        if self.at_end or not self._tokens[self._place].isdigit():
            raise NoExpression("a number is missing")
        self.numbers.append(int(self._tokens[self._place]))
        self._place += 1
        return Fraction(self.numbers[-1])

    def _take(self, *wanted: str) -> str | None:
        if not self.at_end and self._tokens[self._place] in wanted:
            self._place += 1
            return self._tokens[self._place - 1]
        return None
