"""The source of a function or class of a script, with what it needs of that script, as a module of its own.

A function in ``__main__`` or in a notebook has no file that could be imported: importing the script would start its run
again. What the function uses is written in front of it: imports, other functions and classes of the script, and plain
values. Anything else (a client, a model) cannot be written, and is refused by name.
"""

import ast
import builtins
import importlib
import inspect
import re
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from rlserve.errors import InvalidRequest

MAX_VALUE_CHARACTERS = 100_000
"""Of a value that is written into the source: a table of words, and no data set."""
HEAD = "from __future__ import annotations\n"  # annotations may name what is not there


def source_of(thing: Callable[..., Any] | type, *, what: str) -> str:
    """A module with ``thing`` in it. Raises InvalidRequest, which begins with ``what``, for what cannot be written."""
    writer = _Writer(what)
    writer.add(thing.__name__, thing)
    folder = _folder_of(thing)
    # What lies beside the script can be imported; at the end of the path, as in a file of the user's own.
    beside = f"import sys\n\nsys.path.append({str(folder)!r})\n" if folder else ""
    return "\n\n".join([HEAD + beside, *writer.parts]) + "\n"


def is_definition(value: Any) -> bool:
    """Whether ``value`` is a function or class of `def` or `class`, decorated or not."""
    return isinstance(inspect.unwrap(value) if callable(value) else value, FunctionType | type)


def _folder_of(thing: Any) -> Path | None:
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    return Path(file).absolute().parent if file else Path.cwd()


class _Writer:
    """Collects the parts of the module, each behind what it needs."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen: set[str] = set()
        self.parts: list[str] = []

    def add(self, name: str, value: Any) -> None:
        """Write ``value`` so that the module has it as ``name``."""
        if name in self._seen:
            return
        self._seen.add(name)
        if isinstance(value, ModuleType):
            self.parts.append(f"import {value.__name__} as {name}")
        elif is_definition(value) and not _can_be_imported(value):
            self._add_definition(name, value)
        elif isinstance(value, re.Pattern):
            self.parts.append(f"import re\n\n{name} = re.compile({value.pattern!r}, {value.flags})")
        elif (line := _import_of(name, value)) is not None:
            self.parts.append(line)
        else:
            self.parts.append(f"{name} = {self._literal(name, value)}")

    def _add_definition(self, name: str, value: Any) -> None:
        try:
            source = textwrap.dedent(inspect.getsource(value))
            (node, *_) = ast.parse(source).body
        except (OSError, TypeError, SyntaxError, ValueError) as error:
            raise InvalidRequest(
                f"{self._what}: the source of {name!r} cannot be read ({type(error).__name__}); put it into a file and "
                'give "FILE.py:NAME"'
            ) from None
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name != value.__name__:
            raise InvalidRequest(f"{self._what}: {name!r} is no function of `def`; give it a name with `def`")
        known = _visible(value)
        for needed in _globals_of(source):
            if needed != node.name and needed in known:
                self.add(needed, known[needed])
        self.parts += [f"import {module}" for module in _submodules(node, known)]
        alias = f"\n{name} = {node.name}\n" if name != node.name else ""
        self.parts.append(source.rstrip() + "\n" + alias)

    def _literal(self, name: str, value: Any) -> str:
        text = repr(value)
        try:
            if len(text) <= MAX_VALUE_CHARACTERS and ast.literal_eval(text) == value:
                return text
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
        raise InvalidRequest(
            f"{self._what}: uses {name!r} of this script, a {type(value).__name__}, which cannot be sent to the "
            'process that runs it; make it inside the function, or put both into a file and give "FILE.py:NAME"'
        )


def _visible(value: Any) -> Mapping[str, Any]:
    """What names mean where ``value`` was defined."""
    if isinstance(value, type):
        return vars(sys.modules[value.__module__]) if value.__module__ in sys.modules else {}
    function = inspect.unwrap(value)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closed = {}
    for name, cell in cells:
        try:
            closed[name] = cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    return {**function.__globals__, **closed}


def _globals_of(source: str) -> list[str]:
    """Names that the source reads and does not define, in order."""
    found: dict[str, None] = {}
    top = symtable.symtable(HEAD + source, "source", "exec")
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_namespace()}

    def visit(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is top):
                found[symbol.get_name()] = None
        for child in table.get_children():
            visit(child)

    visit(top)
    return [name for name in found if name not in defined and not hasattr(builtins, name)]


def _submodules(node: ast.AST, known: Mapping[str, Any]) -> Iterator[str]:
    """Modules such as ``os.path`` that are reached through a package, which the import of it may not load."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            package = known.get(inner.value.id)
            name = f"{package.__name__}.{inner.attr}" if isinstance(package, ModuleType) else ""
            if name in sys.modules and isinstance(getattr(package, inner.attr, None), ModuleType):
                yield name


def _can_be_imported(value: Any) -> bool:
    return _import_of("", value) is not None


def _import_of(name: str, value: Any) -> str | None:
    """The import that gives ``value``; None if there is none."""
    module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(own, str) or module == "__main__" or "." in own:
        return None
    try:
        there = getattr(importlib.import_module(module), own, None)
    except ImportError:
        return None
    return f"from {module} import {own}" + (f" as {name}" if name != own else "") if there is value else None
