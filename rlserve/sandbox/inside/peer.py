"""One end of the connection between a program's box and its tests' box.

A request carries a random number that its answer must echo. While one end waits for an answer it serves requests of
the other end; this is how a program can call a function that a test passed in.
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
    """The connection is over: the other side hung up or broke the protocol.

    It derives from BaseException, so that a test's ``except Exception`` cannot swallow it.
    """


class Peer:
    """Sends requests, serves those of the other side, and keeps the objects that were lent to it.

    A subclass implements ``serve`` (message -> fields of the reply), ``refer`` and ``resolve`` (see ``values``).
    On the wire, the tests' call of the program's function 1, which calls back a function 7 of the tests::

        tests     {"n": 51, "op": "call", "f": 1, "a": [{"t": "ref", "id": 7}], "k": []}
        program       {"n": 90, "op": "call", "f": 7, "a": [3], "k": []}
        tests         {"n": 90, "v": 9}
        program   {"n": 51, "v": [9]}
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self.fault = ""
        """Why the connection cannot be trusted any more; empty while it can."""
        self.gone = False
        """True once the other side hung up."""
        self.objects: dict[int, Any] = {}
        """The objects that this side lent to the other, by number."""
        self._numbers: dict[int, int] = {}
        self.nodes: Nodes | None = None
        """The instances of the message that is being encoded; see ``graph``."""

    def lend(self, value: Any) -> int:
        """Lend ``value`` to the other side under a number; the same object gets the same number."""
        number = self._numbers.setdefault(id(value), len(self.objects) + 1)
        self.objects[number] = value  # kept alive: after its end another object could get the same id
        return number

    def refer(self, value: Any, kind: str) -> Any:
        """The reference that is sent instead of ``value``. Raises Unsupported."""
        raise NotImplementedError

    def resolve(self, data: Any) -> Any:
        """The object that a received reference stands for; a reference of this side may come back."""
        raise NotImplementedError

    def serve(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a request of the other side."""
        raise NotImplementedError

    def encode(self, value: Any) -> Any:
        """Encode one value as plain data."""
        return Encoder(self.refer, named=True).encode(value)

    def decode(self, data: Any) -> Any:
        """Decode one value from plain data; invalid data end the connection."""
        try:
            return Decoder(self.resolve, named=True).decode(data)
        except Unsupported as error:
            self.break_off(f"a value that cannot be transferred: {error}")

    def rebuild_special(self, data: Any) -> Any:
        """Rebuild an iterator, a regular expression or a text stream of the other side. Raises Unsupported."""
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
            raise Unsupported("it cannot be rebuilt") from error
        return stream

    def break_off(self, why: str) -> NoReturn:
        """Record the fault and raise Broken through whatever is running."""
        self.fault = self.fault or why  # the first fault is the cause; later ones follow from it
        raise Broken(why)

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; serve requests of the other side meanwhile.

        waits for: the answer. unblocked by: the other side, its end (the pipe closes), or the limits of this box.
        """
        if self.fault:  # also when a test caught Broken with a bare except and went on
            raise Broken(self.fault)
        # Random: a program that guesses numbers could put answers into the pipe before it is asked.
        number = secrets.randbits(63)
        self._write({"n": number, "op": op, **fields})
        while True:
            message = self._read()
            if "op" in message:
                self._write({"n": message.get("n"), **self.serve(message)})
            elif type(message.get("n")) is int and message["n"] == number:
                return message
            else:
                self.break_off("an answer to no request")

    def serve_forever(self) -> NoReturn:
        """Serve requests until the other side hangs up, which raises Broken."""
        while True:
            message = self._read()
            self._write({"n": message.get("n"), **self.serve(message)})

    def _read(self) -> dict[str, Any]:
        try:
            return frames.read(self._incoming)
        except frames.BadFrame as error:
            self.break_off(f"an invalid message: {error}")
        except frames.Gone:
            self._hung_up()

    def _write(self, message: Mapping[str, Any]) -> None:
        try:
            frames.write(self._outgoing, message)
        except frames.BadFrame as error:
            if "op" in message:
                self.break_off(f"arguments that are {error}")
            # The other side waits for an answer: a result beyond the frame limit becomes one that says so.
            self._write({"n": message["n"], "x": f"a result that is {error}"})
        except frames.Gone:
            self._hung_up()

    def _hung_up(self) -> NoReturn:
        self.gone = True
        self.break_off("the other side hung up")
