"""Role "program": a whole program, run as ``__main__`` the way ``python solution.py`` runs it."""

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
"""Of an integer that is read or written as text: some tenths of a second. Python's own 4,300 are too few."""
MEMORY_EXIT = 86
"""Exit code of a program that an uncaught MemoryError ended; says nothing that ``sys.exit(86)`` could gain by."""


def main(job: int, links: list[int]) -> int:
    """Run to the end; the exit code is the one that Python would give."""
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
    """The job's JSON; the descriptor is closed."""
    with open(job, "rb") as file:
        content: dict[str, Any] = json.loads(file.read())
        return content


def prepare(modules: dict[str, types.ModuleType], source: str = "") -> None:
    """Fresh standard streams over descriptors 0 to 2, a fixed seed, and nothing of the zygote's own modules.

    ``source`` is what ``inspect`` finds as the program's file.
    """
    sys.set_int_max_str_digits(MAX_DIGITS)
    if source:
        linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
    _open_devices()
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb")), encoding="utf-8", errors="surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb")), encoding="utf-8", errors="surrogateescape")
    unbuffered: Any = io.FileIO(2, "wb")
    sys.stderr = io.TextIOWrapper(unbuffered, encoding="utf-8", errors="backslashreplace", write_through=True)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    for name in ("exit", "quit"):  # what the module ``site`` would have added
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    random.seed(0)
    sys.argv = [NAME]
    sys.path[0] = os.getcwd()
    for name in ("kernel", "room", "zygote"):
        modules.pop(name, None)


def _open_devices() -> None:
    """``/dev/stdin`` and its like lead to the descriptors, though a box has no ``/proc`` to lead through."""
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
            mode, opener = mode.replace("a", "w"), lambda path, flags: os.dup(descriptors[str(path)])
        return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)

    open_file.__name__ = open_file.__qualname__ = "open"
    vars(builtins)["open"] = vars(io)["open"] = open_file
    vars(os)["open"] = opened


def exit_code(error: BaseException) -> int:
    """What Python would exit with; prints what Python would print."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    try:
        trace = error.__traceback__
        error.__traceback__ = trace and trace.tb_next  # without the frame of our own
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        print(f"{type(error).__name__}", file=sys.stderr)
    return MEMORY_EXIT if isinstance(error, MemoryError) else 1


def finish(code: int) -> int:
    """Wait for threads, run exit handlers, flush: as the interpreter does at its end."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException as error:
        code = exit_code(error)
    try:
        sys.stdout.flush()
    except BaseException:
        code = code or 120
    return code
