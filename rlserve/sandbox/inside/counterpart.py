"""The tests' end of the connection to the program."""

import builtins
import collections
import datetime
import decimal
import fractions
import io
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from errors import Classes, lineage_of, standard_class
from graph import Nodes, fill, rebuilt
from peer import Peer
from proxy import Proxy, stand_in
from values import Unsupported, replace_content

TRUSTED_MODULES = frozenset(
    (
        "bisect",
        "cmath",
        "collections",
        "copy",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "os",
        "random",
        "re",
        "statistics",
        "string",
        "sys",
        "time",
        "typing",
        "unittest",
    )
)
"""When the tests use one of these names without importing it, and the program imported the module of that name, the
tests get an import of their own and no reference."""
MAX_ITEMS = 100_000
"""Longest iterator as an argument, all of whose items go to the program. Any value of this size will do: an endless one
must stop somewhere."""
MAX_AHEAD = 256
"""Items fetched at once from an iterator of the program. Fetching more saves round trips, but runs the program further
than a test may want; any value of this size will do."""
REPLACEABLE = ("input", "print")
"""Builtins whose replacements by the tests the program sees too."""
STREAMS = ("stdout", "stderr")
VALUES = (
    *(str, bytes, bytearray, int, float, complex, list, tuple, dict, set, frozenset, range, type(None)),
    *(collections.deque, decimal.Decimal, fractions.Fraction, datetime.date, datetime.time, datetime.timedelta),
)
"""Types that cross only as values: a reference from the program never claims to be of one of them."""


class NotLoaded(Exception):
    """The program raised an exception while it was loaded."""


class Tester(Peer):
    """The tests' end: makes requests of the program, and serves its calls of functions that the tests passed in.

    For example, with the program ``def double(x): return 2 * x`` at the other end::

        tester = Tester(incoming, outgoing)
        tester.declare({}, {})
        double = tester.load(["double"])["double"]      # a Proxy
        double(21)                                      # asks the program; 42, rebuilt here from plain data
        double([1], 2)                                  # raises TypeError, as the program did
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing)
        self.calls = 0
        self.namespace: Mapping[str, Any] = {}
        """Global names of the tests."""
        self._classes: Mapping[str, type] = {}
        self._declared: dict[str, list[str]] = {}
        self._errors = Classes()
        self._received: list[Any] = []
        self._first = {name: getattr(builtins, name) for name in REPLACEABLE} | {
            name: getattr(sys, name) for name in ("stdin", *STREAMS)
        }

    def declare(self, classes: Mapping[str, type], names: Mapping[str, list[str]]) -> None:
        """Name the classes whose instances cross field by field: those of the task's own text, and those of the tests.

        ``names`` maps each class that the tests define to its members.
        """
        self._classes = classes
        members = {n: sorted(part for base in kind.__mro__ for part in vars(base)) for n, kind in classes.items()}
        self._declared = members | dict(names)

    def refer(self, value: Any, kind: str) -> Any:
        if type(value) is Proxy:
            return {"t": "own", "id": value._rl_number}
        if isinstance(value, type) and (name := lineage_of(value)[:1]) and standard_class(name[0]) is value:
            return {"t": "type", "m": name[0]}
        if self.nodes is not None and self._known(type(value).__name__) is type(value):
            return self.nodes.refer(value)
        if callable(value):
            return {"t": "ref", "id": self.lend(value)}
        if isinstance(value, re.Pattern):
            return {"t": "pattern", "v": [self.encode(value.pattern), value.flags]}
        if isinstance(value, io.StringIO):
            return {"t": "stream", "v": [value.getvalue(), value.tell()]}
        if isinstance(value, Iterator):
            items = list(itertools.islice(value, MAX_ITEMS + 1))
            if len(items) <= MAX_ITEMS:
                return {"t": "iterator", "v": self.encode(items)}
        self.break_off(f"an argument of type {type(value).__name__}, which cannot be transferred")

    def resolve(self, data: Any) -> Any:
        # All that arrives was made by the program, which may have sent anything: each field is checked before its use.
        tag = data["t"]
        if tag == "node":
            if type(data["i"]) is not int or not 0 <= data["i"] < len(self._received):
                raise Unsupported("an object that is not in the message")
            return self._received[data["i"]]
        if tag == "member":
            return self._class_of(data["c"], ())[data["n"]]  # type: ignore[index]
        if tag == "exception":
            return self._errors.of(data["m"])
        if tag == "type":
            kind = standard_class(data["m"]) if type(data["m"]) is str else None
            if not isinstance(kind, type):
                raise Unsupported("not a class of the standard library")
            return kind
        if tag == "pattern":
            return self.rebuild_special(data)
        if tag != "ref" or type(data.get("id")) is not int:
            raise Unsupported("an invalid reference")
        if data.get("kind") == "coroutine":
            return self._wait(data["id"])
        return Proxy(self, data["id"], str(data.get("kind")), _class_named(data.get("class")))

    async def _wait(self, number: int) -> Any:
        return self.ask("wait", f=number)

    def _class_of(self, name: str, fields: Sequence[str]) -> type:
        kind = self._known(name)
        if kind is None:
            raise Unsupported("an object of a class that the tests do not define")
        return kind

    def _known(self, name: str) -> type | None:
        own = self.namespace.get(name)
        return own if is_class_of(own, "tests") else self._classes.get(name)

    def serve(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call a function that was lent to the program; refuse any other request."""
        number = message.get("f")
        function = self.objects.get(number) if type(number) is int else None
        arguments, names = message.get("a"), message.get("k")
        if message["op"] != "call" or function is None or type(arguments) is not list or type(names) is not list:
            self.break_off("a request that a program is not allowed to make")
        try:
            self._receive(message)
            keywords = {str(name): self.decode(data) for name, data in names}
            result = function(*map(self.decode, arguments), **keywords)
            self.nodes = Nodes()
            answer = {"v": self.encode(result)}
            return answer | {"nodes": self.nodes.table(self.encode)}
        except Exception as error:
            return {"e": [type(error).__name__, str(error)[:200]]}

    def load(self, names: Sequence[str]) -> dict[str, Any]:
        """Values or proxies for those names that the program defines. Raises NotLoaded."""
        answer = self.request("load", names=names, classes=self._declared)
        if "e" in answer:
            raise NotLoaded(_described(answer["e"]))
        found = answer.get("v")
        if type(found) is not dict:
            self.break_off("an answer of the wrong form")
        return {name: self._bound(name, found[name]) for name in names if name in found}

    def _bound(self, name: str, data: Any) -> Any:
        if type(data) is dict and data.get("kind") == "module" and data.get("name") == name in TRUSTED_MODULES:
            return __import__(name)
        value = self.decode(data)
        if type(value) is Proxy and value._rl_kind == "class" and name[:1].isupper():
            value._rl_mark()
        return value

    def call(self, number: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function of the program, and copy back arguments that it changed."""
        self.calls += 1
        self.nodes = nodes = Nodes()
        encoded = [self.encode(arg) for arg in args]
        named = [[name, self.encode(value)] for name, value in kwargs.items()]
        answer = self._asked("call", f=number, a=encoded, k=named, nodes=nodes.table(self.encode))
        changed = answer.get("a")
        if answer.get("v") is None and type(changed) is list and len(changed) == len(args):
            self._receive(answer, nodes.instances)
            for arg, data in zip(args, changed, strict=True):
                if data is not None:
                    replace_content(arg, self.decode(data))
            return None
        return self._decoded(answer)

    def are_equal(self, one: int, other: int) -> bool:
        """Whether two objects of the program have the same class and fields; its own ``__eq__`` decides nothing."""
        first, second = (self._asked("fields", f=number) for number in (one, other))
        words = [answer.get("eq") for answer in (first, second)]
        if first.get("c") == second.get("c"):
            fields = [self._decoded(answer) for answer in (first, second)]
            if fields[0] and fields[0] == fields[1]:
                return True
        # The fields differ. An __eq__ of the program that calls the objects unequal agrees with that; one that calls
        # them equal may be right (it ignores a field) or a cheat; the two look the same from here.
        if (
            "own" in words
            and self.ask("operate", f=one, name="eq", a=[{"t": "own", "id": other}], swap=False) is not False
        ):
            self.break_off("a comparison of two objects of the program, which its own __eq__ would decide")
        return False

    def _decoded(self, answer: Mapping[str, Any]) -> Any:
        self._receive(answer)
        return self.decode(answer.get("v"))

    def ask(self, op: str, **fields: Any) -> Any:
        """Make any other request that answers with a value."""
        return self._decoded(self._asked(op, **fields))

    def next(self, number: int, count: int) -> tuple[list[Any], bool]:
        """At most ``count`` next items of an iterator, and whether it ended."""
        answer = self._asked("next", f=number, count=count)
        if type(answer.get("v")) is not list or len(answer["v"]) > count:
            self.break_off("an answer of the wrong form")
        return [self.decode(item) for item in answer["v"]], answer.get("end") is True

    def iterate(self, number: int) -> Iterator[Any]:
        """All items of an iterator, fetched in growing chunks."""
        count, ended = 1, False
        while not ended:
            items, ended = self.next(number, count)
            yield from items
            count = min(2 * count, MAX_AHEAD)  # growing: a test that takes one item must not run an endless one ahead

    def _receive(self, message: Mapping[str, Any], origins: Sequence[Any] = ()) -> None:
        """Rebuild the instances of a message."""
        try:
            self._received, fields = rebuilt(message.get("nodes", []), self._class_of, origins)
            fill(fields, self.decode)
        except Unsupported as error:
            self.break_off(f"a value that cannot be transferred: {error}")

    def _asked(self, op: str, **fields: Any) -> dict[str, Any]:
        """Make a request, during which the program sees the streams and functions that the tests replaced."""
        capture = [name for name in STREAMS if getattr(sys, name) is not self._first[name]]
        replaced = [name for name in REPLACEABLE if getattr(builtins, name) is not self._first[name]]
        stdin: Any = sys.stdin if sys.stdin is not self._first["stdin"] else None
        if capture:
            fields["capture"] = capture
        if replaced:
            fields["replaced"] = [[name, self.lend(getattr(builtins, name))] for name in replaced]
        if isinstance(stdin, io.StringIO):
            fields["stdin"] = stdin.read()
        answer = self.request(op, **fields)
        for name in capture:
            if type(answer.get(name)) is str:
                getattr(sys, name).write(answer[name])
        if "x" in answer:
            self.break_off(f"a value that cannot be transferred: {str(answer['x'])[:200]}")
        if "e" in answer:
            raise self._errors.rebuild(answer["e"], self.decode)
        return answer


def is_class_of(item: Any, module: str) -> bool:
    """Whether ``item`` is a class that the named module defines and did not import."""
    # A Proxy answers isinstance with the class that the program claims: only type() is to be trusted.
    return type(item) is not Proxy and isinstance(item, type) and item.__module__ == module


def _class_named(name: Any) -> type | None:
    """The standard library's class of that name, unless its objects cross as values; else a stand-in with that name."""
    if type(name) is not str or not name:
        return None
    kind = standard_class(name)
    if isinstance(kind, type) and not issubclass(kind, VALUES) and kind is not object:
        return kind
    last = name.rpartition(".")[2]
    return stand_in(last) if last.isidentifier() else None


def _described(data: Any) -> str:
    """The program's exception as one line."""
    parts = [part for part in data if type(part) is str] if type(data) is list else []
    return ": ".join([*parts[2:3], *parts[1:2]])[:300] or "it raised an exception"
