"""Role "program": runs a whole program as ``__main__``, the way ``python solution.py`` does."""

import _sitebuiltins
import atexit
import builtins
import io
import json
import linecache
import os
import random
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

NAME = "solution.py"
MAX_DIGITS = 300_000
"""Longest integer that is read or written as text, which takes some tenths of a second. Python's own 4,300 digits are
too few for programs that print factorials or Fibonacci numbers."""
MEMORY_EXIT = 86
"""Exit code after an uncaught MemoryError. A program gains nothing by exiting with it itself: both outcomes are
failures."""


def main(job: int, links: list[int]) -> int:
    """Run the program to its end and return the exit code that Python would give."""
    source = read_job(job)["source"]
    prepare(sys.modules, source)
    module = types.ModuleType("__main__")
    module.__file__ = NAME
    sys.modules["__main__"] = module
    code = 0
    try:
        exec(compile(source, NAME, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        code = exit_code(error)
    return finish(code)


def read_job(job: int) -> dict[str, Any]:
    """Read the job's JSON and close its descriptor, so that the program cannot read it again."""
    with open(job, "rb") as file:
        content: dict[str, Any] = json.loads(file.read())
        return content


def prepare(modules: dict[str, types.ModuleType], source: str = "") -> None:
    """Give the program fresh standard streams, a fixed seed and a table of modules without the zygote's own.

    ``inspect`` and tracebacks find ``source`` as the program's file.
    """
    sys.set_int_max_str_digits(MAX_DIGITS)
    if source:
        linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
    _open_devices()
    # New streams: the zygote's are bound to its own descriptors and carry its encoding.
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb")), encoding="utf-8", errors="surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb")), encoding="utf-8", errors="surrogateescape")
    unbuffered: Any = io.FileIO(2, "wb")
    sys.stderr = io.TextIOWrapper(unbuffered, encoding="utf-8", errors="backslashreplace", write_through=True)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    for name in ("exit", "quit"):  # the module site adds them, which the zygote does not import
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    random.seed(0)
    sys.argv = [NAME]
    sys.path[0] = os.getcwd()
    # So that ``import room`` fails as it does outside. No secret is kept: the runner gave up what these could do.
    for name in ("kernel", "room", "zygote"):
        modules.pop(name, None)


def _open_devices() -> None:
    """Make ``open`` resolve ``/dev/stdin``, ``/dev/fd/0`` and similar paths: a box lacks the ``/proc`` they need."""
    descriptors = {f"{place}/{n}": n for place in ("/dev/fd", "/proc/self/fd") for n in range(3)}
    descriptors |= {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    plain_open, os_open = io.open, os.open

    def opened(path: Any, *args: Any, **kwargs: Any) -> Any:
        number = descriptors.get(str(path)) if isinstance(path, str | os.PathLike) else None
        if number is None:
            return os_open(path, *args, **kwargs)
        return os.dup(number)

    def open_file(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
    ) -> Any:
        if opener is None and isinstance(file, str | os.PathLike) and str(file) in descriptors:
            # "a" would seek to the end, which a pipe refuses.
            mode, opener = mode.replace("a", "w"), lambda path, flags: os.dup(descriptors[str(path)])
        return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)

    open_file.__name__ = open_file.__qualname__ = "open"
    vars(builtins)["open"] = vars(io)["open"] = open_file
    vars(os)["open"] = opened


def exit_code(error: BaseException) -> int:
    """The code with which Python would exit after this exception; prints to standard error what Python would print."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    try:
        trace = error.__traceback__
        error.__traceback__ = trace and trace.tb_next  # without the frame of main
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        print(f"{type(error).__name__}", file=sys.stderr)
    return MEMORY_EXIT if isinstance(error, MemoryError) else 1


def finish(code: int) -> int:
    """Wait for threads, run exit handlers and flush, as the interpreter does when it ends."""
    # The runner leaves by os._exit, which does none of this.
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException as error:
        code = exit_code(error)
    try:
        sys.stdout.flush()
    except BaseException:
        code = code or 120  # Python's own exit code when the last flush fails
    return code
