"""Role "tester": the tests of a data set, and proxies for what the program defines.

The verdict goes to a pipe of its own, together with a secret that only this box was told.
"""

import ast
import builtins
import io
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import program
from peer import Peer, rebuild
from values import Unsupported, replace_content

COUNTER = "__rlserve_tests__"
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
"""A free name of the tests that the program bound to the module of that name is the tests' own import of it."""


def main(job: int, links: list[int]) -> int:
    """Run the tests and report; the exit code is 0 whenever a report was written."""
    task = program.read_job(job)
    incoming, outgoing, verdict = links
    program.prepare(sys.modules)
    tests = Tests(task["tests"], task["prefix"], task["entry_point"])
    report = tests.run(Tester(incoming, outgoing))
    report["nonce"] = task["nonce"]
    with open(verdict, "wb", 0) as file:
        file.write(json.dumps(report).encode())
    return 0


class NotLoaded(Exception):
    """The program raised while it was loaded."""


class Proxy:
    """Something that lives in the program's box. Callable and readable; never equal to a value."""

    __slots__ = ("_rl_kind", "_rl_number", "_rl_peer")
    _rl_peer: "Tester"

    def __init__(self, peer: "Tester", number: int, kind: str) -> None:
        object.__setattr__(self, "_rl_peer", peer)
        object.__setattr__(self, "_rl_number", number)
        object.__setattr__(self, "_rl_kind", kind)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._rl_peer.call(self._rl_number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return self._rl_peer.ask("getattr", f=self._rl_number, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._rl_peer.ask("setattr", f=self._rl_number, name=name, v=self._rl_peer.encode(value))

    def _rl_special(self, name: str, *args: Any) -> Any:
        encoded = [self._rl_peer.encode(arg) for arg in args]
        return self._rl_peer.ask("special", f=self._rl_number, name=name, a=encoded)

    def __len__(self) -> Any:
        return self._rl_special("len")

    def __str__(self) -> Any:
        return self._rl_special("str")

    def __repr__(self) -> Any:
        return self._rl_special("repr")

    def __int__(self) -> Any:
        return self._rl_special("int")

    def __float__(self) -> Any:
        return self._rl_special("float")

    def __getitem__(self, key: Any) -> Any:
        return self._rl_special("getitem", key)

    def __iter__(self) -> Iterator[Any]:
        if self._rl_kind == "iterator":
            items: Iterator[Any] = self._rl_peer.iterate(self._rl_number)
            return items
        found: Iterator[Any] = iter(self._rl_special("iter"))
        return found

    def __next__(self) -> Any:
        items, _ = self._rl_peer.next(self._rl_number, 1)
        if not items:
            raise StopIteration
        return items[0]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Proxy) and other._rl_number != self._rl_number:
            self._rl_peer.break_off("two objects of the program compared: its own word would decide")
        return isinstance(other, Proxy)

    def __hash__(self) -> int:
        return hash(self._rl_number)

    def __bool__(self) -> NoReturn:
        self._rl_peer.break_off("the truth of an object of the program: its own word would decide")

    def __contains__(self, item: object) -> NoReturn:
        self._rl_peer.break_off("membership in an object of the program: its own word would decide")


class Tester(Peer):
    """The tests' end."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing)
        self.calls = 0

    def refer(self, value: Any, kind: str) -> Any:
        if isinstance(value, Proxy):
            return {"t": "own", "id": value._rl_number}
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | type):
            return {"t": "ref", "id": self.lend(value)}
        self.break_off(f"an argument of type {type(value).__name__}, which cannot cross")

    def resolve(self, data: Any) -> Any:
        if data["t"] != "ref" or type(data.get("id")) is not int:
            raise Unsupported("a reference to nothing of ours")
        return Proxy(self, data["id"], data.get("kind"))

    def serve(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """The program may call the functions that it was lent, and nothing else."""
        number = message.get("f")
        function = self.objects.get(number) if type(number) is int else None
        arguments, names = message.get("a"), message.get("k")
        if message["op"] != "call" or function is None or type(arguments) is not list or type(names) is not list:
            self.break_off("a request that a program may not make")
        try:
            keywords = {str(name): self.decode(data) for name, data in names}
            return {"v": self.encode(function(*map(self.decode, arguments), **keywords))}
        except Exception as error:
            return {"e": [type(error).__name__, str(error)[:200]]}

    def load(self, names: Sequence[str]) -> dict[str, Any]:
        """Proxies for the names that the program defines. Raises what kept it from loading."""
        answer = self.request("load", names=names)
        if "e" in answer:
            raise NotLoaded(_described(answer["e"]))
        found = answer.get("v")
        if type(found) is not dict:
            self.break_off("an answer of another form")
        return {name: self._bound(name, found[name]) for name in names if name in found}

    def _bound(self, name: str, data: Any) -> Any:
        if type(data) is dict and data.get("kind") == "module" and data.get("name") == name in TRUSTED_MODULES:
            return __import__(name)
        return self.decode(data)

    def call(self, number: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call what the program lent."""
        self.calls += 1
        encoded = [self.encode(arg) for arg in args]
        answer = self.request(
            "call", f=number, a=encoded, k=[[name, self.encode(value)] for name, value in kwargs.items()]
        )
        self._raise(answer)
        changed = answer.get("a")
        if answer.get("v") is None and type(changed) is list and len(changed) == len(args):
            for arg, data in zip(args, changed, strict=True):
                if data is not None:
                    replace_content(arg, self.decode(data))
        return self.decode(answer.get("v"))

    def ask(self, op: str, **fields: Any) -> Any:
        """Any other request that answers with a value."""
        answer = self.request(op, **fields)
        self._raise(answer)
        return self.decode(answer.get("v"))

    def next(self, number: int, count: int) -> tuple[list[Any], bool]:
        """Some items of an iterator, and whether it ended."""
        answer = self.request("next", f=number, count=count)
        self._raise(answer)
        if type(answer.get("v")) is not list or len(answer["v"]) > count:
            self.break_off("an answer of another form")
        return [self.decode(item) for item in answer["v"]], answer.get("end") is True

    def iterate(self, number: int) -> Iterator[Any]:
        """All items of an iterator, fetched in growing chunks."""
        count, ended = 1, False
        while not ended:
            items, ended = self.next(number, count)
            yield from items
            count = min(2 * count, 256)

    def _raise(self, answer: Mapping[str, Any]) -> None:
        if "x" in answer:
            self.break_off(f"a value that cannot cross: {str(answer['x'])[:200]}")
        if "e" in answer:
            raise rebuild(answer["e"])


class Tests:
    """The test code of a task."""

    def __init__(self, source: str, prefix: str, entry_point: str) -> None:
        self._source, self._prefix, self._entry_point = source, prefix, entry_point
        self.passed = 0
        self.total = 0

    def run(self, peer: Tester) -> dict[str, Any]:
        """Outcome, counts and a reason: ``pass``, ``fail``, ``crash``, ``gone``, ``unsupported`` or ``broken``."""
        try:
            code = self._compile()
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return self._report("broken", f"tests: {type(error).__name__}: {error}")
        names: dict[str, Any] = {"__name__": "tests", COUNTER: self}
        try:
            helpers = self._helpers()
            wanted = sorted(_free_names(code) - set(dir(builtins)) - set(helpers) | {self._entry_point} - {""})
            try:
                bound = peer.load(wanted)
            except NotLoaded as error:
                return self._report("crash", f"the program does not load: {error}")
            if self._entry_point and self._entry_point not in bound:
                return self._report("crash", f"the program does not define {self._entry_point!r}")
            names.update(helpers)
            names.update(bound)
            self._execute(code, names)
        except MemoryError:
            return self._report("memory", "MemoryError")
        except BaseException as error:
            return self._fault(peer) or self._report("fail", _where(error) + _line(error))
        fault = self._fault(peer)
        if fault:
            return fault
        if self.passed == 0 and peer.calls:
            self.passed = 1  # tests that raise by themselves instead of asserting
        if self.passed == 0:
            return self._report("broken", "tests: no assert ran; give asserts, or a function check(candidate)")
        self.total = self.passed
        return self._report("pass", "")

    def _fault(self, peer: Tester) -> dict[str, Any] | None:
        if peer.gone:
            return self._report("gone", "the program ended before its tests did")
        return self._report("unsupported", peer.fault) if peer.fault else None

    def ok(self) -> None:
        """Called after each assert that held."""
        self.passed += 1

    def _report(self, outcome: str, reason: str) -> dict[str, Any]:
        total = max(self.total, self.passed + (outcome != "pass"))
        return {"outcome": outcome, "passed": self.passed, "total": total, "reason": reason[:500]}

    def _compile(self) -> types.CodeType:
        tree = _Counted().visit(ast.parse(self._source, "tests"))
        self.total = sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
        return compile(ast.fix_missing_locations(tree), "tests", "exec", dont_inherit=True)

    def _helpers(self) -> dict[str, Any]:
        """What the task's own text defines, except the function in question: not the program's to say."""
        names: dict[str, Any] = {}
        if self._prefix:
            try:
                exec(compile(self._prefix, "prefix", "exec", dont_inherit=True), names)
            except Exception:
                return {}
        return {name: value for name, value in names.items() if name not in ("__builtins__", self._entry_point)}

    def _execute(self, code: types.CodeType, names: dict[str, Any]) -> None:
        import unittest

        vars(unittest)["main"] = lambda *args, **kwargs: None  # the classes are run below, and counted
        exec(code, names)
        if self.passed == 0 and isinstance(names.get("check"), types.FunctionType) and self._entry_point:
            names["check"](names[self._entry_point])
        cases = [v for v in list(names.values()) if isinstance(v, type) and issubclass(v, unittest.TestCase)]
        for case in cases:
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
            self.total += suite.countTestCases()
            result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
            surprises = [(test, "passed against expectation") for test in result.unexpectedSuccesses]
            bad = [*result.failures, *result.errors, *surprises]
            self.passed += result.testsRun - len(bad) - len(result.skipped)
            if bad:
                raise AssertionError(f"{bad[0][0]}: {str(bad[0][1]).strip().splitlines()[-1]}")


class _Counted(ast.NodeTransformer):
    """After each assert, a call that counts it."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        count = ast.parse(f"{COUNTER}.ok()").body[0]
        return [node, ast.copy_location(count, node)]


def _free_names(code: types.CodeType) -> set[str]:
    """Global names that the code reads, in any of its functions, and does not bind at the top."""
    used: set[str] = set()
    stack = [code]
    while stack:
        current = stack.pop()
        used.update(current.co_names)
        stack.extend(constant for constant in current.co_consts if isinstance(constant, types.CodeType))
    return used - {COUNTER}


def _where(error: BaseException) -> str:
    """The line of the tests that raised."""
    lines = [frame.tb_lineno for frame in _frames(error) if frame.tb_frame.f_code.co_filename == "tests"]
    return f"line {lines[-1]} of the tests: " if lines else ""


def _frames(error: BaseException) -> Iterator[types.TracebackType]:
    frame = error.__traceback__
    while frame is not None:
        yield frame
        frame = frame.tb_next


def _described(data: Any) -> str:
    """A remote exception as one line."""
    parts = [part for part in data if type(part) is str] if type(data) is list else []
    return ": ".join([*parts[2:3], *parts[1:2]])[:300] or "it raised"


def _line(error: BaseException) -> str:
    """One line that says what was raised, without trusting its text."""
    try:
        text = str(error)
    except Exception:
        text = ""
    line = f"{type(error).__name__}: {text}".strip().rstrip(":")
    return line.splitlines()[0][:300] if line else type(error).__name__
