"""Values as plain data: what crosses the wall between a program and its tests.

Only exact builtin types are rebuilt, from data, on the side that judges. An instance of a subclass arrives as
plain value of its base; so ``__eq__`` and its kin stay on their side of the wall. Everything else crosses as a
reference, which is never equal to a value.

Encoded form: null, booleans, small integers, finite floats, texts and lists stand for themselves; the rest is an
object with a tag ``t``.
"""

import collections
import datetime
import decimal
import fractions
import types
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
    """Plain data from values. ``refer`` makes the reference for what is no value, or raises Unsupported."""

    def __init__(self, refer: Callable[[Any, str], Any]) -> None:
        self._refer = refer
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
        for base, plain in _BASES:
            if issubclass(kind, base):
                return self.encode(plain(value), depth + 1)
        return self._refer(value, "iterator" if kind in _ITERATORS else "object")


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


class Decoder:
    """Values from plain data. ``resolve`` makes a value of a reference (tags ``ref`` and ``own``)."""

    def __init__(self, resolve: Callable[[Any], Any]) -> None:
        self._resolve = resolve

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
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise Unsupported("no value of ours") from error

    def _tagged(self, tag: Any, data: Any, depth: int) -> Any:
        if tag in ("ref", "own"):
            return self._resolve(data)
        value = data["v"]
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
