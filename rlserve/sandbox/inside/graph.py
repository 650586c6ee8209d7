"""Instances that cross field by field: of classes that both sides have, as linked lists and trees are made of.

A message carries them as a table, so that a long list is no deep value and an object that is met twice stays one. What
stands in a value is the place in the table. The receiver makes instances of its own class of that name.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from values import Unsupported

MAX_NODES = 100_000


class Nodes:
    """The instances of one message, on the side that sends it."""

    def __init__(self, origins: Mapping[int, int] | None = None) -> None:
        """``origins``: places in the message that is answered, by identity, of instances that came with it."""
        self._origins = origins or {}
        self._places: dict[int, int] = {}
        self._instances: list[Any] = []

    def refer(self, value: Any) -> Any:
        """What stands for an instance in a value."""
        if isinstance(value, enum.Enum):
            return {"t": "member", "c": type(value).__name__, "n": value.name}
        place = self._places.setdefault(id(value), len(self._instances))
        if place == len(self._instances):
            if place >= MAX_NODES:
                raise Unsupported("too many objects")
            self._instances.append(value)
        return {"t": "node", "i": place}

    def table(self, encode: Callable[[Any], Any]) -> list[Any]:
        """Class, fields and origin of each, in the order of their places; fields may bring new ones."""
        table: list[Any] = []
        while len(table) < len(self._instances):
            value = self._instances[len(table)]
            fields = [[name, encode(field)] for name, field in fields_of(value).items()]
            table.append([type(value).__name__, fields, self._origins.get(id(value))])
        return table

    @property
    def instances(self) -> Sequence[Any]:
        """By place."""
        return self._instances


def fields_of(value: Any) -> dict[str, Any]:
    """Attributes of an instance, slots included."""
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def rebuilt(
    table: Any, class_of: Callable[[str, Sequence[str]], type], origins: Sequence[Any] = ()
) -> tuple[list[Any], list[tuple[Any, Sequence[Any]]]]:
    """Empty instances for a table, and their fields as data. ``origins``: instances to use again.

    Raises Unsupported for a table of another form.
    """
    if type(table) is not list or len(table) > MAX_NODES:
        raise Unsupported("no table of objects")
    instances: list[Any] = []
    fields: list[tuple[Any, Sequence[Any]]] = []
    for row in table:
        if type(row) is not list or len(row) != 3 or type(row[0]) is not str or type(row[1]) is not list:
            raise Unsupported("no object")
        pairs = [pair for pair in row[1] if type(pair) is list and len(pair) == 2 and type(pair[0]) is str]
        kind = class_of(row[0], [name for name, _ in pairs])
        for name, _ in pairs:
            if name.startswith("__") or callable(getattr(kind, name, None)):
                raise Unsupported(f"a field {name[:40]!r} of an object, in place of a method")
        origin = row[2]
        same = type(origin) is int and 0 <= origin < len(origins) and type(origins[origin]) is kind
        instance = origins[origin] if same else _empty(kind)
        instances.append(instance)
        fields.append((instance, pairs))
    return instances, fields


def _empty(kind: type) -> Any:
    try:
        return object.__new__(kind)
    except TypeError as error:
        raise Unsupported(f"an object of class {kind.__name__}") from error


def fill(fields: Sequence[tuple[Any, Sequence[Any]]], decode: Callable[[Any], Any]) -> None:
    """Give the instances of a table their fields."""
    for instance, pairs in fields:
        for name, data in pairs:
            try:
                object.__setattr__(instance, name, decode(data))
            except AttributeError as error:
                raise Unsupported(f"a field {name[:40]!r}") from error
