"""One end of the conversation between a program's box and its tests' box.

Requests carry a random number that the answer must echo. While an end waits for its answer it serves requests of
the other: that is how a test can hand a function of its own to the program.
"""

import builtins
import secrets
from collections.abc import Mapping
from typing import Any, NoReturn

import frames
from values import Decoder, Encoder, Unsupported


class Broken(BaseException):
    """The conversation is over: what the other side sent is not what it may send. Not to be swallowed by tests."""


class Peer:
    """``serve`` answers a request: (message) -> fields of the reply. ``refer`` and ``resolve``: see ``values``."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self.fault = ""
        """Why the conversation cannot be trusted any more; empty while it can."""
        self.gone = False
        """True when the other side hung up."""
        self.objects: dict[int, Any] = {}
        """What this side has lent out, by number."""

    def lend(self, value: Any) -> int:
        """A number by which the other side may name ``value``."""
        number = len(self.objects) + 1
        self.objects[number] = value
        return number

    def refer(self, value: Any, kind: str) -> Any:
        """The reference that crosses instead of ``value``."""
        raise NotImplementedError

    def resolve(self, data: Any) -> Any:
        """What a reference of the other side, or one of ours that comes back, stands for."""
        raise NotImplementedError

    def serve(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a request of the other side."""
        raise NotImplementedError

    def encode(self, value: Any) -> Any:
        """One value as plain data."""
        return Encoder(self.refer).encode(value)

    def decode(self, data: Any) -> Any:
        """One value from plain data; what is none ends the conversation."""
        try:
            return Decoder(self.resolve).decode(data)
        except Unsupported as error:
            self.break_off(f"a value that cannot cross: {error}")

    def break_off(self, why: str) -> NoReturn:
        """Remember the fault and leave whatever is running."""
        self.fault = self.fault or why
        raise Broken(why)

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; serves what the other side asks meanwhile."""
        if self.fault:
            raise Broken(self.fault)
        number = secrets.randbits(63)
        self._write({"n": number, "op": op, **fields})
        while True:
            message = self._read()
            if "op" in message:
                self._write({"n": message.get("n"), **self.serve(message)})
            elif type(message.get("n")) is int and message["n"] == number:
                return message
            else:
                self.break_off("an answer that nobody asked for")

    def serve_forever(self) -> NoReturn:
        """Answer until the other side hangs up."""
        while True:
            message = self._read()
            self._write({"n": message.get("n"), **self.serve(message)})

    def _read(self) -> dict[str, Any]:
        try:
            return frames.read(self._incoming)
        except frames.BadFrame as error:
            self.break_off(f"a broken message: {error}")
        except frames.Gone:
            self._hung_up()

    def _write(self, message: Mapping[str, Any]) -> None:
        try:
            frames.write(self._outgoing, message)
        except frames.BadFrame as error:
            if "op" in message:
                self.break_off(f"arguments that are {error}")
            self._write({"n": message["n"], "x": f"a result that is {error}"})
        except frames.Gone:
            self._hung_up()

    def _hung_up(self) -> NoReturn:
        self.gone = True
        self.break_off("the other side hung up")


def describe(error: BaseException) -> list[str]:
    """An exception as plain data: its nearest builtin class and its message."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    return [names[0] if names else "Exception", text.encode("utf-8", "replace").decode(), type(error).__name__[:100]]


def rebuild(data: Any) -> Exception:
    """An exception from plain data; always a plain builtin one."""
    name, text = (data[0], data[1]) if type(data) is list and len(data) >= 2 else ("RuntimeError", "")
    kind = getattr(builtins, name, None) if type(name) is str else None
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    error = kind.__new__(kind)
    error.args = (text if type(text) is str else "",)
    return error
