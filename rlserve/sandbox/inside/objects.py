"""What an object of the program says of itself to its tests, and what it is."""

import types
from collections.abc import Callable, Sequence
from typing import Any

from errors import lineage_of, standard_class
from values import Unsupported

MODULE = "solution"
"""The module that the program is, for its tests."""
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
OWN_WORD = {"bool": "__bool__", "contains": "__contains__"}
"""What an object of the program would decide about itself, and not merely say of itself."""
KINDS = {kind: name for name, kind in vars(types).items() if isinstance(kind, type) and name.endswith("Type")}


def word_of(value: Any, name: str) -> bool:
    """The truth of an object, or that its members may be looked at, unless the program's own code would say so."""
    method = OWN_WORD[name]
    owner = next((base for base in type(value).__mro__ if method in vars(base)), None)
    if owner is not None and owner.__module__ == MODULE:
        what = "the truth of" if name == "bool" else "membership in"
        raise Unsupported(f"{what} an object of the program: its own word would decide")
    return bool(value) if name == "bool" else True


def standard_name(kind: type) -> str:
    """The class of the library that an object is, or derives from; empty for one that is wholly the program's."""
    if kind in KINDS:
        return f"types.{KINDS[kind]}"
    names = lineage_of(kind)
    standard = (name for name in names if standard_class(name) not in (None, object))
    return next(standard, names[0] if names else "")


def initializer(fields: Sequence[str]) -> Callable[..., None]:
    names = list(fields)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        values = dict(zip(names, args, strict=False)) | kwargs
        for name in names:
            setattr(self, name, values.get(name))

    return __init__
