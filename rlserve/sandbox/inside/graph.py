"""Instances that cross field by field, of classes that both sides define: nodes of linked lists and trees, mostly.

A message carries them in a table, and values refer to rows by number. A long linked list is therefore not a deeply
nested value, and an object that occurs twice stays one object. The receiver creates instances of its own class of that
name.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from values import Unsupported

MAX_NODES = 100_000
"""Instances in one message: at some 80 bytes each they fill a frame."""


class Nodes:
    """The instances of one message, on the sending side.

    For example, a linked list 1 -> 2 as an argument::

        nodes = Nodes()
        nodes.refer(first)      # {"t": "node", "i": 0}: this stands in the message instead of the instance
        nodes.table(encode)     # [["ListNode", [["val", 1], ["next", {"t": "node", "i": 1}]], None],
                                #  ["ListNode", [["val", 2], ["next", None]], None]]
    """

    def __init__(self, origins: Mapping[int, int] | None = None) -> None:
        """``origins``: for an answer, by ``id``, the places in the request's table of instances that came with it."""
        self._origins = origins or {}
        self._places: dict[int, int] = {}
        self._instances: list[Any] = []

    def refer(self, value: Any) -> Any:
        """The reference to an instance, which joins the table when it is new."""
        if isinstance(value, enum.Enum):
            return {"t": "member", "c": type(value).__name__, "n": value.name}
        place = self._places.setdefault(id(value), len(self._instances))
        if place == len(self._instances):
            if place >= MAX_NODES:
                raise Unsupported("too many objects")
            self._instances.append(value)
        return {"t": "node", "i": place}

    def table(self, encode: Callable[[Any], Any]) -> list[Any]:
        """Class, fields and origin of each instance, in the order of their places."""
        table: list[Any] = []
        # Not a for loop: encoding a field may add instances, which are encoded in turn.
        while len(table) < len(self._instances):
            value = self._instances[len(table)]
            fields = [[name, encode(field)] for name, field in fields_of(value).items()]
            table.append([type(value).__name__, fields, self._origins.get(id(value))])
        return table

    @property
    def instances(self) -> Sequence[Any]:
        """The instances by place."""
        return self._instances


def fields_of(value: Any) -> dict[str, Any]:
    """The attributes of an instance, slots included."""
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
    """Instances without fields for each row of a table, and the fields as data, for :func:`fill`.

    ``origins``: instances of the request, reused where an answer carries them back. Raises Unsupported for an invalid
    table.
    """
    if type(table) is not list or len(table) > MAX_NODES:
        raise Unsupported("an invalid table of objects")
    instances: list[Any] = []
    fields: list[tuple[Any, Sequence[Any]]] = []
    for row in table:
        if type(row) is not list or len(row) != 3 or type(row[0]) is not str or type(row[1]) is not list:
            raise Unsupported("an invalid object")
        pairs = [pair for pair in row[1] if type(pair) is list and len(pair) == 2 and type(pair[0]) is str]
        kind = class_of(row[0], [name for name, _ in pairs])
        for name, _ in pairs:
            # A program must not replace a method of the tests' class, whose result would pass for the tests' own.
            if name.startswith("__") or callable(getattr(kind, name, None)):
                raise Unsupported(f"a field {name[:40]!r} of an object, which would replace a method")
        origin = row[2]
        same = type(origin) is int and 0 <= origin < len(origins) and type(origins[origin]) is kind
        instance = origins[origin] if same else _empty(kind)
        instances.append(instance)
        fields.append((instance, pairs))
    return instances, fields


def _empty(kind: type) -> Any:
    try:
        return object.__new__(kind)  # __init__ may need arguments, and the fields come from the data
    except TypeError as error:
        raise Unsupported(f"an object of class {kind.__name__}") from error


def fill(fields: Sequence[tuple[Any, Sequence[Any]]], decode: Callable[[Any], Any]) -> None:
    """Set the fields of rebuilt instances; a second step, since instances may refer to each other in circles."""
    for instance, pairs in fields:
        for name, data in pairs:
            try:
                object.__setattr__(instance, name, decode(data))  # a frozen dataclass refuses plain assignment
            except AttributeError as error:
                raise Unsupported(f"a field {name[:40]!r}") from error
