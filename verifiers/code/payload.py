"""The payload of a code task.

``kind``         ``"function"`` (asserts), ``"calls"`` (arguments and results) or ``"stdio"`` (input and output)
``entry_point``  the tested function (required for ``calls``); a method of a class ``Solution`` is found by its own
                 name, and ``Solution().f`` names it in full
``tests``        function: Python source of asserts, or a list of such lines; calls: a list of
                 ``{"args": [...], "kwargs": {...}, "output": ...}``; stdio: a list of ``{"input": ..., "output": ...}``
``prefix``       the task's own code, e.g. the prompt of a completion that is only a body
``extract``      true: extract the program from the completion's fences (default); false: the completion is the program
``partial``      true: the reward is the share of tests passed; false (default): all or nothing
``cpu_seconds``, ``memory_bytes``  limits below the server's own
"""

import ast
import builtins
import json
import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.sandbox.calls import CallTest
from rlserve.sandbox.stdio import StdioTest
from rlserve.sandbox.walls.plain import NotPlain, encode_plain
from rlserve.verifiers.payloads import decode_object, flag

FIELDS = ("kind", "entry_point", "tests", "prefix", "extract", "partial", "cpu_seconds", "memory_bytes")
MAX_TESTS = 1024
"""Per task; each costs a box or a call."""
MAX_CALL_BYTES = 7 * 2**20
"""Of one call's arguments and of its result: below the 8 MiB of one message into or out of a box."""
MIN_MEMORY_BYTES = 2**26
"""Below 64 MiB no interpreter starts."""
MAX_MEMORY_BYTES = 2**40
"""Any value of this size will do: the server's own limit is lower."""
MAX_CPU_SECONDS = 3600
"""Any value of this size will do: the server's own limit is lower."""
MAX_NAME_CHARACTERS = 200
"""Of an entry point. Any value of this size will do."""
# "f", "Solution().f", "Outer.inner": names and calls without arguments, joined by points.
ENTRY_POINT = re.compile(r"[^\W\d]\w*(?:\(\))?(?:\.[^\W\d]\w*(?:\(\))?)*")
MAX_SOURCE_CHARACTERS = 256 * 1024
"""Of a program or its tests; parsing it takes well under a second."""
MAX_INPUT_CHARACTERS = 16 * 2**20
"""Of one test's input or output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTask:
    """A checked payload."""

    kind: str
    entry_point: str
    asserts: str = ""
    calls: Sequence[CallTest] = ()
    stdio: Sequence[StdioTest] = ()
    prefix: str = ""
    extract: bool = True
    partial: bool = False
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    @property
    def wanted(self) -> Collection[str]:
        """Names of which a program for this task defines at least one."""
        if self.kind == "stdio":
            return ()
        # Without an entry point the asserts tell which functions they call.
        return (self.root,) if self.entry_point else _called(self.asserts)

    @property
    def root(self) -> str:
        """The global name with which the entry point begins."""
        return self.entry_point.partition(".")[0].removesuffix("()")

    @property
    def reads(self) -> bool:
        """Whether the tests send input to the program."""
        return any(test.input.strip() for test in self.stdio)


def decode_payload(payload: bytes) -> CodeTask:
    """The task. Raises InvalidRequest, which names the field."""
    content = decode_object(payload, fields=FIELDS)
    kind = content.get("kind")
    if kind not in ("function", "calls", "stdio"):
        raise InvalidRequest(f"payload.kind: is {str(kind)[:40]!a}; send 'function', 'calls' or 'stdio'")
    entry_point = _text(content, "entry_point", maximum=MAX_NAME_CHARACTERS)
    # The name becomes part of a program: anything but a name could change what the tests run.
    if (kind == "calls" or entry_point) and (
        not ENTRY_POINT.fullmatch(entry_point) or any(map(keyword.iskeyword, re.findall(r"\w+", entry_point)))
    ):
        raise InvalidRequest(f"payload.entry_point: is {entry_point[:40]!a}; name the function that is called")
    tests = content.get("tests")
    return CodeTask(
        kind=kind,
        entry_point=entry_point,
        asserts=_asserts(tests) if kind == "function" else "",
        calls=[_call(item, index) for index, item in _listed(tests)] if kind == "calls" else (),
        stdio=[_stdio(item, index) for index, item in _listed(tests)] if kind == "stdio" else (),
        prefix=_text(content, "prefix", maximum=MAX_SOURCE_CHARACTERS),
        extract=flag(content, "extract") if "extract" in content else True,
        partial=flag(content, "partial"),
        cpu_seconds=_number(content, "cpu_seconds"),
        memory_bytes=_whole(content, "memory_bytes"),
    )


def _asserts(tests: Any) -> str:
    lines = tests if isinstance(tests, list) else [tests]
    if not lines or not all(isinstance(line, str) and line.strip() for line in lines):
        raise InvalidRequest("payload.tests: is not Python source; send asserts as one text or a list of lines")
    source = "\n".join(lines)
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise InvalidRequest(f"payload.tests: is {len(source)} characters; send at most {MAX_SOURCE_CHARACTERS}")
    try:
        empty = not ast.parse(source).body
    # ast.parse raises RecursionError or MemoryError for deep nesting, ValueError for a NUL.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidRequest(f"payload.tests: is not Python source ({error}); send assert statements") from error
    if empty:
        raise InvalidRequest("payload.tests: has no statement, so any program would pass; send assert statements")
    return source


def _called(source: str) -> Collection[str]:
    """Return the functions that tests call and do not define."""
    nodes = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    calls = {function.id for function in nodes if isinstance(function, ast.Name)}
    # By pattern: names that the tests themselves define or import, wherever that is.
    own = set(re.findall(r"(?:def|class|import|as)\s+(\w+)", source))
    return tuple(sorted(calls - own - set(dir(builtins))))


def _listed(tests: Any) -> list[tuple[int, Mapping[str, Any]]]:
    if not isinstance(tests, list) or not 0 < len(tests) <= MAX_TESTS:
        raise InvalidRequest(f"payload.tests: is not a list of 1 to {MAX_TESTS} tests")
    for index, item in enumerate(tests):
        if not isinstance(item, dict):
            raise InvalidRequest(f"payload.tests[{index}]: is not an object")
    return list(enumerate(tests))


def _call(item: Mapping[str, Any], index: int) -> CallTest:
    where = f"payload.tests[{index}]"
    args, kwargs = item.get("args"), item.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict) or "output" not in item:
        raise InvalidRequest(f"{where}: needs args (a list), output, and kwargs (an object) if there are any")
    for name, value in (("args", [args, kwargs]), ("output", item["output"])):
        try:
            # As it will travel into the box, with the marks for tuples and sets.
            size = len(json.dumps(encode_plain(value)))
        except NotPlain as error:
            raise InvalidRequest(f"{where}.{name}: {error}") from error
        if size > MAX_CALL_BYTES:
            raise InvalidRequest(f"{where}.{name}: is {size} bytes; send at most {MAX_CALL_BYTES}")
    return CallTest(args=args, kwargs=kwargs, output=item["output"])


def _stdio(item: Mapping[str, Any], index: int) -> StdioTest:
    for name in ("input", "output"):
        if not isinstance(item.get(name), str) or len(item[name]) > MAX_INPUT_CHARACTERS:
            where = f"payload.tests[{index}].{name}"
            raise InvalidRequest(f"{where}: is not text of at most {MAX_INPUT_CHARACTERS} characters")
    # Standard output is UTF-8: a task that expects a lone surrogate is one that no program can pass.
    if any("\ud800" <= character <= "\udfff" for character in item["output"]):
        raise InvalidRequest(f"payload.tests[{index}].output: has lone surrogates, which no program can print")
    return StdioTest(input=item["input"], output=item["output"])


def _text(content: Mapping[str, Any], field: str, *, maximum: int) -> str:
    value = content.get(field, "")
    if not isinstance(value, str) or len(value) > maximum:
        raise InvalidRequest(f"payload.{field}: is not text of at most {maximum} characters")
    return value


def _number(content: Mapping[str, Any], field: str) -> float | None:
    value = content.get(field)
    # bool is a subclass of int: true would otherwise be one second.
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_CPU_SECONDS
    ):
        raise InvalidRequest(
            f"payload.{field}: is {str(value)[:40]!a}; send a number above 0 and at most {MAX_CPU_SECONDS}"
        )
    return value


def _whole(content: Mapping[str, Any], field: str) -> int | None:
    value = content.get(field)
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not MIN_MEMORY_BYTES <= value <= MAX_MEMORY_BYTES
    ):
        raise InvalidRequest(f"payload.{field}: is {str(value)[:40]!a}; send bytes, {MIN_MEMORY_BYTES} or more")
    return value
