"""Role "tester": the tests of a data set, run against what the program defines.

The verdict goes to a pipe of its own, together with a secret that only this box was told.
"""

import ast
import builtins
import io
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import program
from counterpart import NotLoaded, Tester, is_class_of

COUNTER = "__rlserve_tests__"
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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


class Tests:
    """The test code of a task."""

    def __init__(self, source: str, prefix: str, entry_point: str) -> None:
        self._source, self._prefix, self._entry_point = source, prefix, entry_point
        self.passed = 0
        self.total = 0
        self._failed = False
        self._unheard = ""

    def run(self, peer: Tester) -> dict[str, Any]:
        """Outcome, counts and a reason: ``pass``, ``fail``, ``crash``, ``gone``, ``unsupported`` or ``broken``."""
        try:
            code = self._compile()
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return self._report("broken", f"tests: {type(error).__name__}: {error}")
        names: dict[str, Any] = {"__name__": "tests", COUNTER: self}
        try:
            helpers = self._helpers()
            peer.declare({name: item for name, item in helpers.items() if is_class_of(item, "prefix")}, self._classes())
            wanted = sorted(_free_names(code) - set(dir(builtins)) - set(helpers) | {self._entry_point} - {""})
            try:
                bound = peer.load(wanted)
            except NotLoaded as error:
                return self._report("crash", f"the program does not load: {error}")
            if self._entry_point and self._entry_point not in bound:
                return self._report("crash", f"the program does not define {self._entry_point!r}")
            names.update(helpers)
            names.update(bound)
            peer.namespace = names
            self._execute(code, names)
        except MemoryError:
            return self._report("memory", "MemoryError")
        except BaseException as error:
            reason = _where(error) + _line(error)  # which may ask the program, and so be the end of the conversation
            return self._fault(peer) or self._report("fail", reason)
        fault = self._fault(peer)
        if fault:
            return fault
        if self._unheard or (self._failed and self.passed == 0):
            return self._report("fail", self._unheard or "no assert of the tests held, and they let it pass")
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

    def failed(self) -> str:
        """Called when an assert did not hold."""
        self._failed = True
        return ""

    def unheard(self) -> None:
        """Called where the tests caught something and then do nothing that could tell of it."""
        error = sys.exc_info()[1]
        frames = [frame.tb_frame.f_code.co_filename for frame in _frames(error)] if error else []
        if isinstance(error, AssertionError) and frames[-1:] == ["tests"]:
            self._unheard = self._unheard or f"{_where(error)}caught by the tests: {_line(error)}"

    def _report(self, outcome: str, reason: str) -> dict[str, Any]:
        total = max(self.total, self.passed + (outcome != "pass"))
        return {"outcome": outcome, "passed": self.passed, "total": total, "reason": reason[:500]}

    def _compile(self) -> types.CodeType:
        tree = _Counted().visit(ast.parse(self._source, "tests"))
        self.total = sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
        return compile(ast.fix_missing_locations(tree), "tests", "exec", dont_inherit=True)

    def _helpers(self) -> dict[str, Any]:
        """What the task's own text defines, except the function in question: not the program's to say."""
        names: dict[str, Any] = {"__name__": "prefix"}
        if self._prefix:
            try:
                exec(compile(self._prefix, "prefix", "exec", dont_inherit=True), names)
            except Exception:
                return {}
        root = self._entry_point.partition(".")[0].removesuffix("()")
        return {name: value for name, value in names.items() if name not in ("__builtins__", "__name__", root)}

    def _classes(self) -> dict[str, list[str]]:
        """Classes that the tests define, with the names of what is in them."""
        found = {}
        for node in ast.walk(ast.parse(self._source)):
            if isinstance(node, ast.ClassDef):
                found[node.name] = sorted({part.name for part in node.body if isinstance(part, _DEFINITIONS)})
        return found

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
    """After each assert, a call that counts it; in its message, and where one that failed would be lost, another."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        failed = ast.parse(f"{COUNTER}.failed()", mode="eval").body
        node.msg = ast.BoolOp(ast.Or(), [failed, node.msg]) if node.msg else failed
        return [node, *_call("ok", node)]

    def visit_Try(self, node: ast.Try) -> ast.Try:
        self.generic_visit(node)
        if all(isinstance(part, (ast.Expr, ast.Assert)) for part in node.body) and not node.orelse:
            for handler in node.handlers:
                if all(isinstance(part, (ast.Expr, ast.Pass)) for part in handler.body):
                    handler.body = [*_call("unheard", handler), *handler.body]
        return node


def _call(method: str, place: ast.AST) -> list[ast.stmt]:
    statements = ast.parse(f"{COUNTER}.{method}()").body
    return [ast.copy_location(statement, place) for statement in statements]


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


def _line(error: BaseException) -> str:
    """One line that says what was raised, without trusting its text."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    line = f"{type(error).__name__}: {text}".strip().rstrip(":")
    return line.splitlines()[0][:300] if line else type(error).__name__
