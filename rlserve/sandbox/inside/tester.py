"""Role "tester": runs the tests of a task against the names that the program defines.

The verdict goes to a pipe of its own, together with a secret that only this box and the service have.
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
    """Run the tests and write the report; the exit code is 0 when it was written."""
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
    """The test code of a task: compiles it, binds the program's names in it, runs it and counts its asserts.

    Asserts are counted by code that is added behind them. ``assert f(2) == 4, "two"`` becomes::

        assert f(2) == 4, __rlserve_tests__.failed() or "two"
        __rlserve_tests__.ok()
    """

    def __init__(self, source: str, prefix: str, entry_point: str) -> None:
        self._source, self._prefix, self._entry_point = source, prefix, entry_point
        self.passed = 0
        self.total = 0
        self._failed = False
        self._ignored = ""

    def run(self, peer: Tester) -> dict[str, Any]:
        """Run the tests and report outcome, counts and a reason.

        Outcomes are ``pass``, ``fail``, ``crash``, ``memory``, ``gone`` (the program ended), ``unsupported`` (it broke
        the protocol or returned what cannot be judged) and ``broken`` (the tests are at fault).
        """
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
            # Before the check for a fault: making the text of an error may call the program, and end the connection.
            reason = _where(error) + _line(error)
            return self._fault(peer) or self._report("fail", reason)
        fault = self._fault(peer)
        if fault:
            return fault
        if self._ignored or (self._failed and self.passed == 0):
            return self._report("fail", self._ignored or "asserts failed and the tests ignored it; none held")
        if self.passed == 0 and peer.calls:
            self.passed = 1  # such tests raise by themselves instead of asserting, and raised nothing
        if self.passed == 0:
            return self._report("broken", "tests: no assert ran; give asserts, or a function check(candidate)")
        self.total = self.passed
        return self._report("pass", "")

    def _fault(self, peer: Tester) -> dict[str, Any] | None:
        if peer.gone:
            return self._report("gone", "the program ended before its tests did")
        return self._report("unsupported", peer.fault) if peer.fault else None

    def ok(self) -> None:
        """Count an assert that held."""
        self.passed += 1

    def failed(self) -> str:
        """Record that an assert failed; the empty text keeps the assert's own message."""
        self._failed = True
        return ""

    def ignored(self) -> None:
        """Record a failed assert that the tests caught; called first in a handler that does nothing about it."""
        error = sys.exc_info()[1]
        frames = [frame.tb_frame.f_code.co_filename for frame in _frames(error)] if error else []
        if isinstance(error, AssertionError) and frames[-1:] == ["tests"]:
            self._ignored = self._ignored or f"{_where(error)}failed, and the tests ignored it: {_line(error)}"

    def _report(self, outcome: str, reason: str) -> dict[str, Any]:
        total = max(self.total, self.passed + (outcome != "pass"))
        return {"outcome": outcome, "passed": self.passed, "total": total, "reason": reason[:500]}

    def _compile(self) -> types.CodeType:
        tree = _Counted().visit(ast.parse(self._source, "tests"))
        self.total = sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
        return compile(ast.fix_missing_locations(tree), "tests", "exec", dont_inherit=True)

    def _helpers(self) -> dict[str, Any]:
        """Run the task's own text and take what it defines, except the function in question.

        The tests use these helpers as the task gave them: a program must not replace them.
        """
        names: dict[str, Any] = {"__name__": "prefix"}
        if self._prefix:
            try:
                exec(compile(self._prefix, "prefix", "exec", dont_inherit=True), names)
            except Exception:  # a prefix may be the start of a program that the completion continues
                return {}
        root = self._entry_point.partition(".")[0].removesuffix("()")
        return {name: value for name, value in names.items() if name not in ("__builtins__", "__name__", root)}

    def _classes(self) -> dict[str, list[str]]:
        """The classes that the tests define, with the names of their methods."""
        found = {}
        for node in ast.walk(ast.parse(self._source)):
            if isinstance(node, ast.ClassDef):
                found[node.name] = sorted({part.name for part in node.body if isinstance(part, _DEFINITIONS)})
        return found

    def _execute(self, code: types.CodeType, names: dict[str, Any]) -> None:
        import unittest

        vars(unittest)["main"] = lambda *args, **kwargs: None  # it would exit; the cases run below, and are counted
        exec(code, names)
        # HumanEval's form: a function ``check(candidate)`` that the file only defines.
        if self.passed == 0 and isinstance(names.get("check"), types.FunctionType) and self._entry_point:
            names["check"](names[self._entry_point])
        cases = [v for v in list(names.values()) if isinstance(v, type) and issubclass(v, unittest.TestCase)]
        for case in cases:
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
            self.total += suite.countTestCases()
            result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
            surprises = [(test, "unexpected success") for test in result.unexpectedSuccesses]
            bad = [*result.failures, *result.errors, *surprises]
            self.passed += result.testsRun - len(bad) - len(result.skipped)
            if bad:
                raise AssertionError(f"{bad[0][0]}: {str(bad[0][1]).strip().splitlines()[-1]}")


class _Counted(ast.NodeTransformer):
    """Adds calls to asserts, and to handlers that would hide a failed one; see :class:`Tests`."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        # The message is evaluated only when the assert fails.
        failed = ast.parse(f"{COUNTER}.failed()", mode="eval").body
        node.msg = ast.BoolOp(ast.Or(), [failed, node.msg]) if node.msg else failed
        return [node, *_call("ok", node)]

    def visit_Try(self, node: ast.Try) -> ast.Try:
        self.generic_visit(node)
        # Only a handler that does nothing but print or pass hides a failure: one that counts or tries something else
        # may be right to catch it.
        if all(isinstance(part, (ast.Expr, ast.Assert)) for part in node.body) and not node.orelse:
            for handler in node.handlers:
                if all(isinstance(part, (ast.Expr, ast.Pass)) for part in handler.body):
                    handler.body = [*_call("ignored", handler), *handler.body]
        return node


def _call(method: str, place: ast.AST) -> list[ast.stmt]:
    statements = ast.parse(f"{COUNTER}.{method}()").body
    return [ast.copy_location(statement, place) for statement in statements]


def _free_names(code: types.CodeType) -> set[str]:
    """Names that the code uses anywhere, nested functions included: the candidates for names of the program."""
    # co_names lists attributes too. That is harmless: the program is asked for a name and may not define it.
    used: set[str] = set()
    stack = [code]
    while stack:
        current = stack.pop()
        used.update(current.co_names)
        stack.extend(constant for constant in current.co_consts if isinstance(constant, types.CodeType))
    return used - {COUNTER}


def _where(error: BaseException) -> str:
    """Where in the tests an exception was raised, as a prefix of a reason."""
    lines = [frame.tb_lineno for frame in _frames(error) if frame.tb_frame.f_code.co_filename == "tests"]
    return f"line {lines[-1]} of the tests: " if lines else ""


def _frames(error: BaseException) -> Iterator[types.TracebackType]:
    frame = error.__traceback__
    while frame is not None:
        yield frame
        frame = frame.tb_next


def _line(error: BaseException) -> str:
    """One line that names an exception, even one whose text cannot be made."""
    try:
        text = str(error)
    except BaseException:  # it may hold objects of the program, whose text the program makes
        text = ""
    line = f"{type(error).__name__}: {text}".strip().rstrip(":")
    return line.splitlines()[0][:300] if line else type(error).__name__
