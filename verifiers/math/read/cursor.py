"""A position in a list of tokens: peek, take, accept."""

from rlserve.verifiers.math.read.tokens import Token
from rlserve.verifiers.math.tree import Unreadable

END = Token("end")


class Cursor:
    """The base of a recursive-descent parser: its tokens, and the index of the next one.

    Example::

        cursor = Cursor(tokenize("2+x"))
        cursor.take("number").text     # "2"; another kind would raise Unreadable
        cursor.accept("+", "-")        # "+": taken
        cursor.accept("+", "-")        # "": the next token is a symbol, and stays
        cursor.peek().text             # "x"
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.index = 0

    def peek(self, ahead: int = 0) -> Token:
        """Return the token ``ahead`` of this position; END behind the last one."""
        index = self.index + ahead
        return self.tokens[index] if index < len(self.tokens) else END

    def command(self) -> str:
        """Return the name of the command at this position; ``""`` when there is none."""
        return self.peek().text if self.peek().kind == "command" else ""

    def take(self, kind: str) -> Token:
        """Consume the token at this position, which must be of ``kind``. Raises Unreadable."""
        token = self.peek()
        if token.kind != kind:
            raise Unreadable(f"{token.text[:20]!a} where {kind!r} should be", self.command())
        self.index += 1
        return token

    def accept(self, *kinds: str) -> str:
        """Consume the token at this position when it is one of ``kinds`` and return its kind; else return ``""``."""
        kind = self.peek().kind
        if kind not in kinds:
            return ""
        self.index += 1
        return kind

    def accept_command(self, *names: str) -> bool:
        """Consume the command at this position when it is one of ``names``; False when it is not."""
        found = self.command() in names and self.command() != ""
        self.index += found
        return found
