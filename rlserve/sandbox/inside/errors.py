"""Exceptions as plain data, and local classes that stand in for the program's exception classes."""

import builtins
import contextlib
import sys
import types
from typing import Any

from values import Encoder, Unsupported

MAX_CLASSES = 256
"""Stand-in classes for one program. Any value of this size will do: it bounds what a program can make its tests
hold."""
MAX_TEXT = 500
"""Characters of an exception's text. Any value of this size will do: tests compare messages, which are shorter."""
MAX_LINEAGE = 20
"""Base classes of one class. Any value of this size will do."""


def describe(error: BaseException) -> list[Any]:
    """An exception as plain data: nearest builtin class, text, class, base classes, arguments, fields."""
    lineage = lineage_of(type(error))
    builtin = next((name for name in lineage if "." not in name), "Exception")
    try:
        text = str(error)[:MAX_TEXT]
    except BaseException:  # the program's __str__ may raise anything
        text = ""
    text = text.encode("utf-8", "replace").decode()  # without lone surrogates, which the tests could not print
    return [builtin, text, type(error).__name__[:100], lineage, _plain(_arguments(error, text)), _plain(_fields(error))]


def lineage_of(kind: type) -> list[str]:
    """Full names of a class and its base classes in method resolution order; builtin ones without their module."""
    return [
        base.__qualname__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}"
        for base in kind.__mro__
        if base is not object
    ][:MAX_LINEAGE]


def _arguments(error: BaseException, text: str) -> Any:
    """The exception's arguments; its text alone where the class has a ``__str__`` of its own."""
    # The stand-in has the inherited __str__, which prints the arguments.
    return list(error.args) if isinstance(type(error).__str__, types.WrapperDescriptorType) else [text]


def _fields(error: BaseException) -> Any:
    fields = getattr(error, "__dict__", {})
    return {name: value for name, value in fields.items() if type(name) is str and not name.startswith("__")}


def _plain(value: Any) -> Any:
    def refuse(*_: object) -> Any:
        raise Unsupported("not a plain value")

    try:
        return Encoder(refuse).encode(value)
    except BaseException:
        return None


class Classes:
    """Exception classes on the tests' side: the standard library's own, and stand-ins for those of the program."""

    def __init__(self) -> None:
        self._made: dict[str, type[BaseException]] = {}

    def of(self, lineage: Any) -> type[BaseException]:
        """The class with these base classes; the same names give the same class. Raises Unsupported."""
        if type(lineage) is not list or not all(type(name) is str and len(name) < 300 for name in lineage):
            raise Unsupported("an invalid list of base classes")
        for position, name in enumerate(lineage):
            standard = standard_class(name)
            if isinstance(standard, type) and issubclass(standard, BaseException):
                kind: type[BaseException] = standard
                for own in reversed(lineage[:position]):
                    kind = self._own(own, kind)
                return kind
        return Exception

    def rebuild(self, data: Any, decode: Any) -> BaseException:
        """An exception from plain data; whatever the data are, some exception comes back."""
        if type(data) is not list or len(data) < 2 or not all(type(part) is str for part in data[:2]):
            return RuntimeError("")
        try:
            kind = self.of(data[3] if len(data) > 3 else [data[0]])
        except Unsupported:
            kind = RuntimeError
        if issubclass(kind, (GeneratorExit, StopIteration, StopAsyncIteration)):
            kind = RuntimeError  # these steer generators and loops; Python converts them in the same way (PEP 479)
        arguments = decode(data[4]) if len(data) > 4 and data[4] is not None else [data[1]]
        fields = decode(data[5]) if len(data) > 5 and data[5] is not None else {}
        error = kind.__new__(kind)  # without __init__, whose parameters are unknown
        error.args = tuple(arguments) if type(arguments) is list else (data[1],)
        for name, value in fields.items() if type(fields) is dict else ():
            if type(name) is str and not hasattr(kind, name):
                with contextlib.suppress(Exception):
                    setattr(error, name, value)
        return error

    def _own(self, name: str, base: type[BaseException]) -> type[BaseException]:
        if name not in self._made:
            if len(self._made) >= MAX_CLASSES:
                raise Unsupported("too many exception classes")
            self._made[name] = type(name.rpartition(".")[2], (base,), {})
        return self._made[name]


def standard_class(name: str) -> Any:
    """The standard library's object of this full name; None when there is none."""
    if "." not in name:
        return getattr(builtins, name, None)
    module, _, attribute = name.rpartition(".")
    top = module.partition(".")[0]
    # A unittest.SkipTest from the program would skip a test instead of failing it. Importing the others has effects:
    # antigravity opens a browser, this prints, the graphical ones need a display.
    if top not in sys.stdlib_module_names or top in ("unittest", "antigravity", "this", "idlelib", "tkinter"):
        return None
    with contextlib.suppress(Exception):
        if module not in sys.modules:
            __import__(module)
        return getattr(sys.modules[module], attribute, None)
    return None
