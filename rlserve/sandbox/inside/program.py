"""Role "program": a whole program, run as ``__main__`` the way ``python solution.py`` runs it."""

import _sitebuiltins
import atexit
import builtins
import io
import json
import os
import random
import sys
import threading
import types
from typing import Any

NAME = "solution.py"
MEMORY_EXIT = 86
"""Exit code of a program that an uncaught MemoryError ended; says nothing that ``sys.exit(86)`` could gain by."""


def main(job: int, links: list[int]) -> int:
    """Run to the end; the exit code is the one that Python would give."""
    source = read_job(job)["source"]
    prepare(sys.modules)
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


def prepare(modules: dict[str, types.ModuleType]) -> None:
    """Fresh standard streams over descriptors 0 to 2, a fixed seed, and nothing of the zygote's own modules."""
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
