"""What stands for an object of the program in its tests. It says what the object says, and decides nothing."""

import types
from collections.abc import Iterator
from typing import Any

READABLE = frozenset(
    ("__name__", "__doc__", "__dict__", "__annotations__", "__module__", "__qualname__", "__members__", "__wrapped__")
)
VERDICTS = frozenset(
    (
        *("startswith", "endswith", "equals", "count", "is_integer", "issubset", "issuperset", "isdisjoint"),
        *("isdigit", "isalpha", "isalnum", "isupper", "islower", "isspace", "isnumeric", "isdecimal", "istitle"),
        *("isidentifier", "isascii", "isprintable", "all", "any"),
    )
)
"""Methods of values that tests take for a verdict. An object that is no value could say yes to all of them."""
_stand_ins: dict[str, type] = {}


class Proxy:
    # Something that lives in the program's box: callable and readable, never equal to a value. Its text is theirs.
    __doc__ = property(lambda self: self.__getattr__("__doc__"))

    __slots__ = ("_rl_class", "_rl_kind", "_rl_made", "_rl_number", "_rl_peer")
    _rl_peer: Any

    def __init__(self, peer: Any, number: int, kind: str, cls: type | None) -> None:
        """``cls``: the class of the standard library that the object is of, or one that has its class's name."""
        object.__setattr__(self, "_rl_peer", peer)
        object.__setattr__(self, "_rl_number", number)
        object.__setattr__(self, "_rl_kind", kind)
        object.__setattr__(self, "_rl_class", cls)
        object.__setattr__(self, "_rl_made", False)

    def _rl_mark(self) -> None:
        """Remember that the tests made it themselves, of a class that they call by its name."""
        object.__setattr__(self, "_rl_made", True)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._rl_class or Proxy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._rl_peer.call(self._rl_number, args, kwargs)
        if self._rl_made and type(result) is Proxy:
            result._rl_mark()
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in READABLE:
            raise AttributeError(name)
        found = self._rl_peer.ask("getattr", f=self._rl_number, name=name)
        own = self._rl_class is None or self._rl_class.__name__ in _stand_ins
        if name in VERDICTS and type(found) is Proxy and self._rl_kind == "object" and own and not self._rl_made:
            self._rl_peer.break_off(f"{name} of an object of the program: its own word would decide")
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        self._rl_peer.ask("setattr", f=self._rl_number, name=name, v=self._rl_peer.encode(value))

    def _rl_special(self, name: str, *args: Any) -> Any:
        encoded = [self._rl_peer.encode(arg) for arg in args]
        return self._rl_peer.ask("special", f=self._rl_number, name=name, a=encoded)

    def __len__(self) -> Any:
        return self._rl_special("len")

    def __str__(self) -> Any:
        return self._rl_special("str")

    def __repr__(self) -> Any:
        return self._rl_special("repr")

    def __int__(self) -> Any:
        return self._rl_special("int")

    def __float__(self) -> Any:
        return self._rl_special("float")

    def __getitem__(self, key: Any) -> Any:
        return self._rl_special("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._rl_special("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._rl_special("delitem", key)

    def __iter__(self) -> Iterator[Any]:
        if self._rl_kind == "iterator":
            items: Iterator[Any] = self._rl_peer.iterate(self._rl_number)
            return items
        found: Iterator[Any] = iter(self._rl_special("iter"))
        return found

    def __next__(self) -> Any:
        items, _ = self._rl_peer.next(self._rl_number, 1)
        if not items:
            raise StopIteration
        return items[0]

    def __eq__(self, other: object) -> bool:
        if type(other) is not Proxy:
            return False
        if other._rl_number == self._rl_number:
            return True
        return self._rl_peer.are_equal(self._rl_number, other._rl_number) is True

    def __hash__(self) -> int:
        return hash(self._rl_number)

    def __bool__(self) -> bool:
        return self._rl_special("bool") is True

    def __contains__(self, item: object) -> bool:
        self._rl_special("contains")
        return any(other is item or other == item for other in self)

    def __enter__(self) -> Any:
        return self._rl_operate("__enter__")

    def __exit__(self, *_: object) -> None:
        self._rl_operate("__exit__", None, None, None)

    def _rl_operate(self, name: str, *others: Any, swap: bool = False) -> Any:
        """An operator of the program's: of an object that the tests made, since a result could pass for a number."""
        if not self._rl_made:
            raise TypeError(f"unsupported operand for {name}: an object of the program")
        encoded = [self._rl_peer.encode(other) for other in others]
        found = self._rl_peer.ask("operate", f=self._rl_number, name=name, a=encoded, swap=swap)
        if type(found) is Proxy:
            found._rl_mark()
        return found

    def __instancecheck__(self, instance: object) -> bool:
        """Whether a value is of this class, by its word; for what arrived as plain data, by the name of its class."""
        if type(instance) is Proxy:
            return self._rl_peer.ask("isinstance", f=instance._rl_number, c=self._rl_number) is True
        return isinstance(instance, tuple) and type(instance).__name__ == self.__name__

    def __subclasscheck__(self, kind: Any) -> bool:
        """Whether a class of the program is below this one."""
        return type(kind) is Proxy and self._rl_peer.ask("issubclass", f=kind._rl_number, c=self._rl_number) is True


# Behind the class body, whose own annotations would stand in its place.
setattr(Proxy, "__annotations__", property(lambda self: self.__getattr__("__annotations__")))  # noqa: B010


def _operator(name: str, swap: bool) -> Any:
    def operate(self: Proxy, *others: Any) -> Any:
        return self._rl_operate(name, *others, swap=swap)

    return operate


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    setattr(Proxy, f"__{_name.rstrip('_')}__", _operator(_name, swap=False))
    setattr(Proxy, f"__r{_name.rstrip('_')}__", _operator(_name, swap=True))
for _name in ("lt", "le", "gt", "ge", "neg", "abs", "invert"):
    setattr(Proxy, f"__{_name}__", _operator(_name, swap=False))


def stand_in(name: str) -> type:
    """A class that has the name of the program's."""
    if name not in _stand_ins:
        _stand_ins[name] = types.new_class(name)
    return _stand_ins[name]
