"""Role "candidate": loads the program as a module and answers the calls of its tests, which run in another box."""

import builtins
import collections
import contextlib
import io
import operator
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import program
from errors import describe, lineage_of, standard_class
from graph import Nodes, fields_of, fill, rebuilt
from objects import MODULE, SPECIAL, VERDICT_METHODS, initializer, standard_name, trusted_verdict
from peer import Broken, Peer
from values import Unsupported

MAX_CHUNK = 1024
"""Items of an iterator in one answer. The tests ask for at most 256; any value of this size will do."""
MAX_PRINTED = 1 << 20
"""Captured characters in one answer: the output limit of a box, and far below what a frame can carry."""


def main(job: int, links: list[int]) -> int:
    """Load the program, then answer calls until the tests close the connection."""
    source = program.read_job(job)["source"]
    program.prepare(sys.modules, source)
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    failure: list[Any] | None = None
    try:
        exec(compile(source, program.NAME, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        # Reported when the tests ask for the first name: a program that does not load still has to answer that.
        program.exit_code(error)
        failure = describe(error)
    with contextlib.suppress(Broken):
        Candidate(links[0], links[1], vars(module), failure).serve_forever()
    return program.finish(0)


class Borrowed:
    """A function of the tests: calling it sends a request back to their box."""

    def __init__(self, peer: "Candidate", number: int) -> None:
        self._peer, self._number = peer, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.call_back(self._number, args, kwargs)


class Candidate(Peer):
    """The program's end of the connection to its tests.

    Each request names an operation, which the method of that name answers: ``{"op": "call", "f": 1, "a": [2], "k":
    []}`` calls the first object that this side lent and answers ``{"v": 3}``, or ``{"e": ...}`` for an exception, or
    ``{"x": ...}`` for a result that cannot be transferred.
    """

    def __init__(self, incoming: int, outgoing: int, names: dict[str, Any], failure: list[Any] | None) -> None:
        super().__init__(incoming, outgoing)
        self._names, self._failure = names, failure
        self._shared: dict[str, Sequence[str]] = {}
        """Classes that the tests define as well, with the names of their members."""
        self._received: list[Any] = []
        self._has_referred = False
        """Whether a reference was encoded since this was last reset."""

    def refer(self, value: Any, kind: str) -> Any:
        # A class or an exception crosses by its names; an instance of a class that the tests define, by its fields; all
        # else as a reference to an object that stays here.
        if isinstance(value, types.ModuleType):
            return {"t": "ref", "id": self.lend(value), "kind": "module", "name": value.__name__}
        if isinstance(value, type):
            if issubclass(value, BaseException):
                return {"t": "exception", "m": lineage_of(value)}
            name = lineage_of(value)[:1]
            if name and standard_class(name[0]) is value:
                return {"t": "type", "m": name[0]}
            return {"t": "ref", "id": self.lend(value), "kind": "class"}
        if self.nodes is not None and self._crosses(type(value)):
            return self.nodes.refer(value)
        self._has_referred = True
        if isinstance(value, re.Pattern):
            return {"t": "pattern", "v": [self.encode(value.pattern), value.flags]}
        if isinstance(value, types.CoroutineType):
            kind = "coroutine"
        return {"t": "ref", "id": self.lend(value), "kind": kind, "class": standard_name(type(value))}

    def _crosses(self, kind: type) -> bool:
        """Whether instances cross field by field: the tests define the class too, with all methods that it has here."""
        known = self._shared.get(kind.__name__)
        if known is None or kind.__module__ not in (MODULE, "builtins"):
            return False
        return all(name in known or name.startswith("__") for name, item in vars(kind).items() if callable(item))

    def resolve(self, data: Any) -> Any:
        if data["t"] == "own":
            return self.objects[data["id"]]
        if data["t"] == "node":
            return self._received[data["i"]]
        if data["t"] == "member":
            return self._class_of(data["c"], ()).__members__[data["n"]]  # type: ignore[attr-defined]
        if data["t"] in ("type", "exception"):
            return standard_class(data["m"])
        if data["t"] in ("iterator", "pattern", "stream"):
            return self.rebuild_special(data)
        return Borrowed(self, data["id"])

    def call_back(self, number: int, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function that the tests passed in."""
        self.nodes = Nodes()
        fields = {"a": [self.encode(arg) for arg in args], "k": [[n, self.encode(v)] for n, v in kwargs.items()]}
        table = self.nodes.table(self.encode)
        answer = self.request("call", f=number, nodes=table, **fields)
        if "e" in answer:
            raise _error_of_the_tests(answer["e"])
        return self._decoded(answer, "v")

    def serve(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        printed: list[io.StringIO] = []
        try:
            # ``op`` comes from the tests' box, which is trusted with this one: it may run any method here.
            with self._as_tests_have_it(message, printed):
                answer: dict[str, Any] = dict(getattr(self, f"_{message['op']}")(message))
        except Unsupported as error:
            answer = {"x": str(error)}
        except Broken:
            raise
        except BaseException as error:  # SystemExit too: the tests may expect it, and this end must go on answering
            answer = {"e": describe(error)}
        for name, stream in zip(message.get("capture", ()), printed, strict=False):
            answer[name] = stream.getvalue()[:MAX_PRINTED]
        return answer

    @contextlib.contextmanager
    def _as_tests_have_it(self, message: Mapping[str, Any], printed: list[io.StringIO]) -> Iterator[None]:
        """Put in place, during a request, the streams and functions that the tests replaced on their side."""
        with contextlib.ExitStack() as stack:
            for name in message.get("capture", ()):
                stream = io.StringIO()
                printed.append(stream)
                stack.enter_context(_set(sys, name, stream))
            if "stdin" in message:
                stack.enter_context(_set(sys, "stdin", io.StringIO(message["stdin"])))
            for name, number in message.get("replaced", ()):
                stack.enter_context(_set(builtins, name, Borrowed(self, number)))
            yield

    def _load(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._failure is not None:
            return {"e": self._failure}
        self._shared = dict(message.get("classes", {}))
        found = {name: self._find(name) for name in message["names"]}
        return {"v": {name: self.encode(value[0]) for name, value in found.items() if value}}

    def _find(self, name: str) -> list[Any]:
        """What the name means in the program: a method of its class Solution, a global name or a path; else nothing.

        The method comes first: the program may have imported something of the same name, such as ``merge`` of heapq.
        """
        found = self._names.get("Solution")
        solution: type = found if isinstance(found, type) else object
        if any(name in vars(kind) for kind in solution.__mro__[:-1]) and callable(getattr(solution, name)):
            # A new instance for each call, as LeetCode has it: no state may leak from one test to the next.
            return [lambda *args, **kwargs: getattr(solution(), name)(*args, **kwargs)]
        if name in self._names:
            return [self._names[name]]
        if name.isidentifier():
            return []
        if name.partition(".")[0].removesuffix("()") not in self._names:
            return []
        if "()" not in name:
            return [self._follow(name)]
        return [lambda *args, **kwargs: self._follow(name)(*args, **kwargs)]

    def _follow(self, path: str) -> Any:
        """Evaluate a path such as ``Solution().f``, with a new instance each time."""
        value: Any = None
        for place, part in enumerate(path.split(".")):
            name = part.removesuffix("()")
            value = getattr(value, name) if place else self._names[name]
            value = value() if part.endswith("()") else value
        return value

    def _call(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        function = self.objects[message["f"]]
        args = self._decoded(message, "a")
        received = list(self._received)
        kwargs = {name: self.decode(data) for name, data in message["k"]}
        result = function(*args, **kwargs)
        # Printed text must leave the box before the answer: the tests may end right after it, and this box with them.
        sys.stdout.flush()
        self.nodes = Nodes({id(value): place for place, value in enumerate(received)})
        answer: dict[str, Any] = {"v": self.encode(result)}
        if result is None:  # a function that returns a value is assumed not to work by changing its arguments
            mutable: tuple[type, ...] = (*_MUTABLE, *{type(value) for value in received})
            answer["a"] = [self.encode(arg) if isinstance(arg, mutable) else None for arg in args]
        if table := self.nodes.table(self.encode):
            answer["nodes"] = table
        return answer

    def _decoded(self, message: Mapping[str, Any], name: str) -> Any:
        """Decode a field of a message that may carry instances."""
        instances, fields = rebuilt(message.get("nodes", []), self._class_of)
        self._received = instances
        fill(fields, self.decode)
        return self.decode(message.get(name))

    def _class_of(self, name: str, fields: Sequence[str]) -> type:
        """The program's class of that name; a new one that only holds the fields where the program defines none."""
        kind = self._names.get(name)
        if not isinstance(kind, type):
            kind = self._names[name] = type(name, (), {"__init__": initializer(fields), "__module__": MODULE})
        return kind

    def _getattr(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._answer(getattr(self.objects[message["f"]], message["name"]))

    def _setattr(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        setattr(self.objects[message["f"]], message["name"], self.decode(message["v"]))
        return {"v": None}

    def _special(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        value, name = self.objects[message["f"]], message["name"]
        if name in VERDICT_METHODS:
            return {"v": trusted_verdict(value, name)}
        if name == "iter":
            return {"v": {"t": "ref", "id": self.lend(iter(value)), "kind": "iterator"}}
        return self._answer(SPECIAL[name](value, *(self.decode(data) for data in message["a"])))

    def _isinstance(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"v": isinstance(self.objects[message["f"]], self.objects[message["c"]])}

    def _issubclass(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = self.objects[message["f"]]
        return {"v": isinstance(kind, type) and self.objects[message["c"]] in type.mro(kind)}

    def _fields(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        value = self.objects[message["f"]]
        owner = next(base for base in type(value).__mro__ if "__eq__" in vars(base))
        # A dataclass's generated __eq__ compares fields, as the tests will; one written in the program may say
        # anything.
        made = "__dataclass_fields__" in vars(owner) and owner.__eq__.__code__.co_filename != program.NAME
        word = "own" if owner.__module__ == MODULE and not made else "made"
        return {**self._answer(fields_of(value)), "c": lineage_of(type(value))[:1], "eq": word}

    def _operate(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        operands = [self.objects[message["f"]], *(self.decode(data) for data in message["a"])]
        if message["name"] in ("__enter__", "__exit__"):
            return self._answer(getattr(type(operands[0]), message["name"])(*operands))
        return self._answer(getattr(operator, message["name"])(*(operands[::-1] if message["swap"] else operands)))

    def _wait(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        import asyncio

        return self._answer(asyncio.run(self.objects[message["f"]]))

    def _next(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        iterator: Any = self.objects[message["f"]]
        items: list[Any] = []
        self._has_referred = False
        for _ in range(min(message["count"], MAX_CHUNK)):
            try:
                items.append(self.encode(next(iterator)))
            except StopIteration:
                return {"v": items, "end": True}
            if self._has_referred:
                break  # the next step may invalidate the item, as it does with a group of ``itertools.groupby``
        return {"v": items, "end": False}

    def _answer(self, value: Any) -> dict[str, Any]:
        self.nodes = Nodes()
        answer = {"v": self.encode(value)}
        if table := self.nodes.table(self.encode):
            answer["nodes"] = table
        return answer


def _error_of_the_tests(data: Any) -> Exception:
    kind = getattr(builtins, data[0], None)
    return kind(*data[1:2]) if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError(*data[1:2])


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


_MUTABLE = (list, dict, set, bytearray, collections.deque)
