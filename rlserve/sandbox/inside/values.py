"""Values as plain data: what crosses the wall between a program and its tests.

Only exact builtin types are rebuilt, from data, on the side that judges. An instance of a subclass arrives as
plain value of its base; so ``__eq__`` and its kin stay on their side of the wall. Everything else crosses as a
reference, which is never equal to a value.

Encoded form: null, booleans, small integers, finite floats, texts and lists stand for themselves; the rest is an
object with a tag ``t``.
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
MAX_NODES = 2_000_000
_SMALL = 1 << 62


class Unsupported(Exception):
    """The value cannot cross."""


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
    """Plain data from values. ``refer`` makes the reference for what is no value, or raises Unsupported.

    ``named``: tuples with named fields keep the names.
    """

    def __init__(self, refer: Callable[[Any, str], Any], *, named: bool = False) -> None:
        self._refer, self._named = refer, named
        self._nodes = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Raises Unsupported for what is too deep, too large or has no form."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise Unsupported("the value is too deep or too large")
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else {"t": "int", "v": hex(value)}
        if kind is float:
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
"""Tags of what only stands for something on one of the sides, or is made anew there."""
_named_types: dict[tuple[str, ...], Any] = {}


class Decoder:
    """Values from plain data. ``resolve`` makes a value of a reference (see REFERENCES)."""

    def __init__(self, resolve: Callable[[Any], Any], *, named: bool = False) -> None:
        self._resolve, self._named = resolve, named

    def decode(self, data: Any, depth: int = 0) -> Any:
        """Raises Unsupported for anything that no encoder of ours makes."""
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
            raise Unsupported("no value of ours") from error

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
        """A tuple of our own making, whose fields have the names of theirs."""
        names = tuple(_a(list, data["f"]))
        if not self._named:
            return tuple(items)
        if not _are_fields(names) or len(names) != len(items) or not _is_name(data["n"]):
            raise Unsupported("no fields")
        key = (data["n"], *names)
        if key not in _named_types:
            _named_types[key] = collections.namedtuple(data["n"], names)
        return _named_types[key](*items)


def _is_name(name: Any) -> bool:
    return type(name) is str and name.isidentifier() and not keyword.iskeyword(name)


def _are_fields(names: Any) -> bool:
    """Whether a named tuple can have them."""
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
    if type(value) is not kind:
        raise Unsupported(f"no {kind.__name__}")
    return value


def replace_content(target: Any, value: Any) -> None:
    """Give a mutable argument the content that a call left in its copy."""
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
