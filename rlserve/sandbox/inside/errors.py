"""Exceptions as plain data, and classes of our own that stand for the program's."""

import builtins
import contextlib
import sys
import types
from typing import Any

from values import Encoder, Unsupported

MAX_CLASSES = 256
MAX_TEXT = 500


def describe(error: BaseException) -> list[Any]:
    """An exception as plain data: nearest builtin class, text, class, classes that it derives from, fields."""
    lineage = lineage_of(type(error))
    builtin = next((name for name in lineage if "." not in name), "Exception")
    try:
        text = str(error)[:MAX_TEXT]
    except BaseException:
        text = ""
    text = text.encode("utf-8", "replace").decode()
    return [builtin, text, type(error).__name__[:100], lineage, _plain(_arguments(error, text)), _plain(_fields(error))]


def lineage_of(kind: type) -> list[str]:
    """Names of a class and what it derives from; builtin ones without their module."""
    return [
        base.__qualname__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}"
        for base in kind.__mro__
        if base is not object
    ][:20]


def _arguments(error: BaseException, text: str) -> Any:
    """Its arguments, where they are what its text is made of."""
    return list(error.args) if isinstance(type(error).__str__, types.WrapperDescriptorType) else [text]


def _fields(error: BaseException) -> Any:
    fields = getattr(error, "__dict__", {})
    return {name: value for name, value in fields.items() if type(name) is str and not name.startswith("__")}


def _plain(value: Any) -> Any:
    def refuse(*_: object) -> Any:
        raise Unsupported("no plain value")

    try:
        return Encoder(refuse).encode(value)
    except BaseException:
        return None


class Classes:
    """Classes of exceptions on the side of the tests: real ones of the standard library, ours for the program's."""

    def __init__(self) -> None:
        self._made: dict[str, type[BaseException]] = {}

    def of(self, lineage: Any) -> type[BaseException]:
        """The class of a lineage. Raises Unsupported."""
        if type(lineage) is not list or not all(type(name) is str and len(name) < 300 for name in lineage):
            raise Unsupported("no lineage")
        for position, name in enumerate(lineage):
            standard = standard_class(name)
            if isinstance(standard, type) and issubclass(standard, BaseException):
                kind: type[BaseException] = standard
                for own in reversed(lineage[:position]):
                    kind = self._own(own, kind)
                return kind
        return Exception

    def rebuild(self, data: Any, decode: Any) -> BaseException:
        """An exception from plain data."""
        if type(data) is not list or len(data) < 2 or not all(type(part) is str for part in data[:2]):
            return RuntimeError("")
        try:
            kind = self.of(data[3] if len(data) > 3 else [data[0]])
        except Unsupported:
            kind = RuntimeError
        if issubclass(kind, (GeneratorExit, StopIteration, StopAsyncIteration)):
            kind = RuntimeError  # as Python has it where one leaves a generator
        arguments = decode(data[4]) if len(data) > 4 and data[4] is not None else [data[1]]
        fields = decode(data[5]) if len(data) > 5 and data[5] is not None else {}
        error = kind.__new__(kind)
        error.args = tuple(arguments) if type(arguments) is list else (data[1],)
        for name, value in fields.items() if type(fields) is dict else ():
            if type(name) is str and not hasattr(kind, name):
                with contextlib.suppress(Exception):
                    setattr(error, name, value)
        return error

    def _own(self, name: str, base: type[BaseException]) -> type[BaseException]:
        if name not in self._made:
            if len(self._made) >= MAX_CLASSES:
                raise Unsupported("too many classes of exceptions")
            self._made[name] = type(name.rpartition(".")[2], (base,), {})
        return self._made[name]


def standard_class(name: str) -> Any:
    """The class of the standard library that has this full name; None when there is none, or it is not loaded yet."""
    if "." not in name:
        return getattr(builtins, name, None)
    module, _, attribute = name.rpartition(".")
    top = module.partition(".")[0]
    if top not in sys.stdlib_module_names or top in ("unittest", "antigravity", "this", "idlelib", "tkinter"):
        return None
    with contextlib.suppress(Exception):
        if module not in sys.modules:
            __import__(module)
        return getattr(sys.modules[module], attribute, None)
    return None
