"""One end of the conversation between a program's box and its tests' box.

Requests carry a random number that the answer must echo. While an end waits for its answer it serves requests of
the other: that is how a test can hand a function of its own to the program.
"""

import io
import re
import secrets
from collections.abc import Mapping
from typing import Any, NoReturn

import frames
from graph import Nodes
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
        self._numbers: dict[int, int] = {}
        self.nodes: Nodes | None = None
        """Instances in the message that is being made or read; see ``graph``."""

    def lend(self, value: Any) -> int:
        """A number by which the other side may name ``value``; the same for the same object."""
        number = self._numbers.setdefault(id(value), len(self.objects) + 1)
        self.objects[number] = value  # kept, so that no other object gets its identity
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
        return Encoder(self.refer, named=True).encode(value)

    def decode(self, data: Any) -> Any:
        """One value from plain data; what is none ends the conversation."""
        try:
            return Decoder(self.resolve, named=True).decode(data)
        except Unsupported as error:
            self.break_off(f"a value that cannot cross: {error}")

    def made_anew(self, data: Any) -> Any:
        """An iterator, a pattern or a stream of text like the one of the other side. Raises Unsupported."""
        content = self.decode(data.get("v"))
        try:
            if data["t"] == "iterator":
                return iter(content)
            if data["t"] == "pattern":
                return re.compile(*content)
            text, position = content
            stream = io.StringIO(text)
            stream.seek(position)
        except (TypeError, ValueError, OverflowError, RecursionError, re.error) as error:
            raise Unsupported("it cannot be made anew") from error
        return stream

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
