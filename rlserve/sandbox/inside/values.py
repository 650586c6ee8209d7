"""Values as plain data: the form in which they cross between a program and its tests.

The judging side rebuilds values from data, as exact builtin types only. An instance of a subclass arrives as a plain
value of its base class, so that methods of the program such as ``__eq__`` never run on the judging side. Everything
else crosses as a reference, which is never equal to a value.

Encoded form: null, booleans, small integers, finite floats, texts and lists encode as themselves; every other value is
a JSON object with a tag ``t``: ``(1, 2)`` becomes ``{"t": "tuple", "v": [1, 2]}``.
"""

import array
import collections
import datetime
import decimal
import fractions
import keyword
import pathlib
import time
import types
import uuid
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 200
"""Nesting of a value. Any value of this size will do that keeps the recursion here below Python's limit of 1,000
frames, of which each level takes up to three."""
MAX_NODES = 2_000_000
"""Items of a value, all levels together. Any value of this size will do: larger ones exceed a frame."""
_SMALL = 1 << 62  # integers below it fit 64 bits in any JSON parser; larger ones cross as hexadecimal text


class Unsupported(Exception):
    """The value cannot be transferred."""


_ITERATORS: tuple[type, ...] = (
    types.GeneratorType,
    map,
    filter,
    zip,
    enumerate,
    reversed,
    type(iter([])),
    type(iter(())),
    type(iter({})),
    type(iter(set())),
    type(iter("")),
    type(iter(range(0))),
    type(iter({}.items())),
    type(iter({}.values())),
)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class Encoder:
    """Encodes values as plain data. For other objects it calls ``refer``, which makes a reference or raises
    Unsupported.

    ``named``: named tuples keep the names of their fields.
    """

    def __init__(self, refer: Callable[[Any, str], Any], *, named: bool = False) -> None:
        self._refer, self._named = refer, named
        self._nodes = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Encode one value. Raises Unsupported when it is too deep, too large or has no encoded form."""
        # Exact types throughout: isinstance would let a subclass of the program run its own code here.
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise Unsupported("the value is too deep or too large")
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else {"t": "int", "v": hex(value)}
        if kind is float:
            # JSON has neither infinities nor NaN, for which the difference is NaN.
            return value if value - value == 0 else {"t": "float", "v": repr(value)}
        if kind is list:
            return [self.encode(item, depth + 1) for item in value]
        simple = _SIMPLE.get(kind)
        if simple is not None:
            return {"t": simple, "v": [self.encode(item, depth + 1) for item in value]}
        return self._other(value, kind, depth)

    def _other(self, value: Any, kind: Any, depth: int) -> Any:
        if kind in _MAPPINGS:
            items = [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in value.items()]
            return {"t": _MAPPINGS[kind], "v": items}
        if kind is bytes or kind is bytearray:
            return {"t": kind.__name__, "v": value.hex()}
        if kind is complex:
            return {"t": "complex", "v": [self.encode(value.real), self.encode(value.imag)]}
        if kind is range:
            return {"t": "range", "v": [self.encode(part) for part in (value.start, value.stop, value.step)]}
        if kind is fractions.Fraction:
            return {"t": "fraction", "v": [hex(value.numerator), hex(value.denominator)]}
        if kind is decimal.Decimal:
            return {"t": "decimal", "v": str(value)}
        if kind in (datetime.datetime, datetime.date, datetime.time):
            return {"t": kind.__name__, "v": value.isoformat()}
        if kind is datetime.timedelta:
            return {"t": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
        if kind in _VIEWS:
            return {"t": "list", "v": [self.encode(item, depth + 1) for item in value]}
        if value is NotImplemented or value is Ellipsis:
            return {"t": "constant", "v": repr(value)}
        if kind in _STANDARD:
            return {"t": kind.__name__, "v": [self.encode(part, depth + 1) for part in _STANDARD[kind](value)]}
        if self._named and issubclass(kind, tuple) and _are_fields(getattr(kind, "_fields", None)):
            parts = [self.encode(item, depth + 1) for item in tuple.__iter__(value)]
            return {"t": "named", "n": kind.__name__, "f": list(kind._fields), "v": parts}
        if kind.__module__ == "numpy" and hasattr(value, "tolist"):
            return self.encode(value.tolist(), depth + 1)
        # A subclass: the value of its base, by the base's own method and not by an override.
        for base, plain in _BASES:
            if issubclass(kind, base):
                return self.encode(plain(value), depth + 1)
        return self._refer(value, "iterator" if kind in _ITERATORS else "object")


_STANDARD: dict[type, Callable[[Any], Any]] = {
    uuid.UUID: lambda value: [str(value)],
    pathlib.PosixPath: lambda value: [str(value)],
    pathlib.PurePosixPath: lambda value: [str(value)],
    array.array: lambda value: [value.typecode, value.tolist()],
    datetime.timezone: lambda value: [value.utcoffset(None), value.tzname(None)],
    slice: lambda value: [value.start, value.stop, value.step],
    time.struct_time: tuple,
    types.SimpleNamespace: lambda value: [vars(value)],
}
_REBUILT: dict[str, Callable[..., Any]] = {
    "UUID": uuid.UUID,
    "PosixPath": pathlib.PosixPath,
    "PurePosixPath": pathlib.PurePosixPath,
    "array": array.array,
    "timezone": datetime.timezone,
    "slice": slice,
    "struct_time": lambda *parts: time.struct_time(parts),
    "SimpleNamespace": lambda fields: types.SimpleNamespace(**fields),
}
_SIMPLE: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", collections.deque: "deque"}
_MAPPINGS: dict[type, str] = {
    dict: "dict",
    collections.OrderedDict: "ordered_dict",
    collections.Counter: "counter",
    collections.defaultdict: "dict",
}
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda value: int.__add__(value, 0)),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
    (list, lambda value: list.__getitem__(value, slice(None))),
    (tuple, lambda value: tuple.__getitem__(value, slice(None))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
)


REFERENCES = ("ref", "own", "node", "member", "type", "exception", "iterator", "pattern", "stream")
"""Tags of objects that stay on one side or that need code to rebuild: the decoder's ``resolve`` handles them."""
# One class for each name and fields, so that two results of one function are of the same type.
_named_types: dict[tuple[str, ...], Any] = {}


class Decoder:
    """Decodes values from plain data; ``resolve`` turns a reference (see REFERENCES) into an object."""

    def __init__(self, resolve: Callable[[Any], Any], *, named: bool = False) -> None:
        self._resolve, self._named = resolve, named

    def decode(self, data: Any, depth: int = 0) -> Any:
        """Decode one value. Raises Unsupported for data that no Encoder makes."""
        if depth > MAX_DEPTH:
            raise Unsupported("too deep")
        if data is None or type(data) in (bool, str, int, float):
            return data
        if type(data) is list:
            return [self.decode(item, depth + 1) for item in data]
        try:
            return self._tagged(data["t"], data, depth)
        except Unsupported:
            raise
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, OverflowError) as error:
            raise Unsupported("invalid data") from error

    def _tagged(self, tag: Any, data: Any, depth: int) -> Any:
        if tag in REFERENCES:
            return self._resolve(data)
        value = data["v"]
        if tag == "named":
            return self._tuple(data, [self.decode(item, depth + 1) for item in _a(list, value)])
        if tag in _REBUILT:
            return _REBUILT[tag](*(self.decode(item, depth + 1) for item in _a(list, value)))
        if tag in _CONTAINERS:
            return _CONTAINERS[tag]([self.decode(item, depth + 1) for item in _a(list, value)])
        if tag in _PAIRS:
            pairs = [_a(list, pair) for pair in _a(list, value)]
            return _PAIRS[tag]({self.decode(k, depth + 1): self.decode(v, depth + 1) for k, v in pairs})
        if tag == "int":
            return int(_a(str, value), 16)
        if tag == "float":
            return {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}[value]
        if tag in ("bytes", "bytearray"):
            found = bytes.fromhex(_a(str, value))
            return found if tag == "bytes" else bytearray(found)
        if tag == "complex":
            real, imaginary = (_a(float, self.decode(part)) for part in value)
            return complex(real, imaginary)
        if tag == "range":
            return range(*(_a(int, self.decode(part)) for part in value))
        if tag == "fraction":
            return fractions.Fraction(*(int(_a(str, part), 16) for part in value))
        if tag == "decimal":
            return decimal.Decimal(_a(str, value))
        if tag in ("datetime", "date", "time"):
            return getattr(datetime, tag).fromisoformat(_a(str, value))
        if tag == "timedelta":
            return datetime.timedelta(*(_a(int, part) for part in value))
        return {"NotImplemented": NotImplemented, "Ellipsis": Ellipsis}[_a(str, value)]

    def _tuple(self, data: Any, items: list[Any]) -> Any:
        """A named tuple of a class made here, with the names of the original's fields."""
        names = tuple(_a(list, data["f"]))
        if not self._named:
            return tuple(items)
        if not _are_fields(names) or len(names) != len(items) or not _is_name(data["n"]):
            raise Unsupported("invalid field names")  # namedtuple builds its class from source text
        key = (data["n"], *names)
        if key not in _named_types:
            _named_types[key] = collections.namedtuple(data["n"], names)
        return _named_types[key](*items)


def _is_name(name: Any) -> bool:
    return type(name) is str and name.isidentifier() and not keyword.iskeyword(name)


def _are_fields(names: Any) -> bool:
    """Whether these are valid field names of a named tuple."""
    return (
        type(names) is tuple
        and len(set(names)) == len(names)
        and all(_is_name(name) and not name.startswith("_") for name in names)
    )


_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_PAIRS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "dict": dict,
    "ordered_dict": collections.OrderedDict,
    "counter": collections.Counter,
}


def _a(kind: type, value: Any) -> Any:
    """The value, if it is exactly of this type. Raises Unsupported."""
    if type(value) is not kind:
        raise Unsupported(f"not a {kind.__name__}")
    return value


def replace_content(target: Any, value: Any) -> None:
    """Give a mutable argument the content that its copy has after a call."""
    if type(target) is not type(value):
        return
    if isinstance(target, list | bytearray):
        target[:] = value
    elif isinstance(target, dict | set):
        target.clear()
        target.update(value)
    elif isinstance(target, collections.deque):
        target.clear()
        target.extend(value)
