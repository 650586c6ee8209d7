"""Pydantic's errors as messages for the user: "key: what it was; what to do"."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from rlserve.config.foreign_keys import OURS
from rlserve.config.schema import places_of, walk
from rlserve.nearest import nearest

MAX_PLACES = 3
"""A name that is known in more places than this gives no hint at what was meant."""


def explain(section: type[BaseModel], error: ValidationError) -> list[str]:
    """A line for each fault; one that only follows from a fault inside of it is left out."""
    faults = error.errors()
    locs = [tuple(fault["loc"]) for fault in faults]
    # A wrong value inside a union or a table makes pydantic report the outer table as well.
    roots = [
        fault
        for fault, loc in zip(faults, locs, strict=True)
        if not (loc and any(len(other) > len(loc) and other[: len(loc)] == loc for other in locs))
    ]
    return [_explain(section, fault) for fault in roots]


def _explain(section: type[BaseModel], fault: Any) -> str:
    path, _ = walk(section, fault["loc"])
    where = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key" + _meant(section, fault["loc"], where)
    if fault["type"] == "missing":
        return f"{where}: is missing; give it a value"
    if fault["type"] == "value_error":
        # A validator of this package raised it: its message already has the form "key: what it was; what to do".
        return _with_place(str(fault["ctx"]["error"]), path)
    return f"{where}: is {fault['input']!r}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _meant(section: type[BaseModel], loc: Sequence[str | int], where: str) -> str:
    name = str(loc[-1])
    # The same name in another table is the likelier meaning: `lr` at the top is [learner] lr, no slip of the fingers.
    elsewhere = [place for place in places_of(section, name) if place != where]
    if 0 < len(elsewhere) <= MAX_PLACES:
        return f"; did you mean {' or '.join(elsewhere)}?"
    if name in OURS:
        return f"; here it is called {OURS[name]}"
    near = nearest(name, walk(section, loc[:-1])[1])
    return f"; did you mean {near!r}?" if near else ""


def _with_place(message: str, path: Sequence[str]) -> str:
    """A section names its own fields; put before that where in the configuration the section stands."""
    first = message.split(":", 1)[0].split(".", 1)[0]
    if not path or first == path[0]:
        return message
    # Some messages begin with their own table's name, which ends the path already: it must not stand twice.
    known = path[: path.index(first)] if first in path else path
    return ".".join(known) + "." + message
