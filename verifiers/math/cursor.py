"""A place in a list of tokens: look, take, accept."""

from rlserve.verifiers.math.tokens import Token
from rlserve.verifiers.math.tree import Unreadable

END = Token("end")


class Cursor:
    """What a recursive-descent parser stands on."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.index = 0

    def peek(self, ahead: int = 0) -> Token:
        """The token ``ahead`` of this place; END behind the last one."""
        index = self.index + ahead
        return self.tokens[index] if index < len(self.tokens) else END

    def command(self) -> str:
        """Name of the command at this place; empty when there is none."""
        return self.peek().text if self.peek().kind == "command" else ""

    def take(self, kind: str) -> Token:
        """The token at this place, which must be of ``kind``; raises Unreadable."""
        token = self.peek()
        if token.kind != kind:
            raise Unreadable(f"{token.text[:20]!a} where {kind!r} should be", self.command())
        self.index += 1
        return token

    def accept(self, *kinds: str) -> str:
        """Kind of the token at this place, taken, when it is one of ``kinds``; else empty."""
        kind = self.peek().kind
        if kind not in kinds:
            return ""
        self.index += 1
        return kind

    def accept_command(self, *names: str) -> bool:
        """True, and the command taken, when one of ``names`` stands here."""
        found = self.command() in names and self.command() != ""
        self.index += found
        return found
