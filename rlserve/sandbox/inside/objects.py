"""Answers the tests' questions about objects of the program: special methods, truth, class."""

import types
from collections.abc import Callable, Sequence
from typing import Any

from errors import lineage_of, standard_class
from values import Unsupported

MODULE = "solution"
"""The name of the module as which the program is loaded for its tests."""
SPECIAL: dict[str, Callable[..., Any]] = {
    "len": len,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "getitem": lambda value, key: value[key],
    "setitem": lambda value, key, item: value.__setitem__(key, item),
    "delitem": lambda value, key: value.__delitem__(key),
}
VERDICT_METHODS = {"bool": "__bool__", "contains": "__contains__"}
"""Special methods whose result is a verdict by itself: a program's own implementation of them is not believed."""
KINDS = {kind: name for name, kind in vars(types).items() if isinstance(kind, type) and name.endswith("Type")}


def trusted_verdict(value: Any, name: str) -> bool:
    """The truth of an object, or whether the tests may search its members; Unsupported for a class of the program.

    A ``__bool__`` of the program could make any assert hold; that of a library object (a match, a counter) is genuine.
    """
    method = VERDICT_METHODS[name]
    owner = next((base for base in type(value).__mro__ if method in vars(base)), None)
    if owner is not None and owner.__module__ == MODULE:
        what = "the truth of" if name == "bool" else "membership in"
        raise Unsupported(f"{what} an object of the program, which its own {method} would decide")
    return bool(value) if name == "bool" else True


def standard_name(kind: type) -> str:
    """The nearest class of the standard library in a class's lineage; the class's own name where there is none."""
    if kind in KINDS:
        return f"types.{KINDS[kind]}"
    names = lineage_of(kind)
    standard = (name for name in names if standard_class(name) not in (None, object))
    return next(standard, names[0] if names else "")


def initializer(fields: Sequence[str]) -> Callable[..., None]:
    """An ``__init__`` that takes these fields by position or name and sets the others to None."""
    names = list(fields)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        values = dict(zip(names, args, strict=False)) | kwargs
        for name in names:
            setattr(self, name, values.get(name))

    return __init__
