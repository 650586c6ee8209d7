"""Proxies: what the tests hold instead of objects of the program. They forward operations, but no verdicts."""

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
"""Methods of builtin types whose result tests take for a verdict. A class of the program could define them to return
True."""
_stand_ins: dict[str, type] = {}


class Proxy:
    # An object in the program's box: callable and readable, never equal to a value. This is a comment because a
    # docstring would hide the object's own __doc__; names begin with _rl_ so that they hide no attribute of the object
    # either.
    __doc__ = property(lambda self: self.__getattr__("__doc__"))

    __slots__ = ("_rl_class", "_rl_kind", "_rl_made", "_rl_number", "_rl_peer")
    _rl_peer: Any

    def __init__(self, peer: Any, number: int, kind: str, cls: type | None) -> None:
        """``cls``: the standard library's class of the object, or a stand-in with the name of the program's class."""
        # Through object: plain assignment would set the attribute in the program's box.
        object.__setattr__(self, "_rl_peer", peer)
        object.__setattr__(self, "_rl_number", number)
        object.__setattr__(self, "_rl_kind", kind)
        object.__setattr__(self, "_rl_class", cls)
        object.__setattr__(self, "_rl_made", False)

    def _rl_mark(self) -> None:
        """Record that the tests created the object themselves, by calling a class of the program by name."""
        object.__setattr__(self, "_rl_made", True)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # isinstance consults this, so that ``isinstance(found, re.Match)`` holds; code here uses type() instead.
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
            self._rl_peer.break_off(f"a call of {name} that an object of the program would decide by itself")
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
        # An iterator is fetched in chunks; any other object is asked for its iterator first, as Python does.
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
        # Never equal to a value: a program could otherwise return an object that equals whatever is expected.
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
        self._rl_special("contains")  # ends the connection if the program's own __contains__ would decide
        return any(other is item or other == item for other in self)

    def __enter__(self) -> Any:
        return self._rl_operate("__enter__")

    def __exit__(self, *_: object) -> None:
        self._rl_operate("__exit__", None, None, None)

    def _rl_operate(self, name: str, *others: Any, swap: bool = False) -> Any:
        """Apply an operator of the program, only on objects that the tests created themselves.

        On an object that the program returned, the result (a number, a comparison) could pass for a right answer.
        """
        if not self._rl_made:
            raise TypeError(f"unsupported operand for {name}: an object of the program")
        encoded = [self._rl_peer.encode(other) for other in others]
        found = self._rl_peer.ask("operate", f=self._rl_number, name=name, a=encoded, swap=swap)
        if type(found) is Proxy:
            found._rl_mark()
        return found

    def __instancecheck__(self, instance: object) -> bool:
        """Whether an object is of this class, as the program answers; for a named tuple (a value), by its name."""
        if type(instance) is Proxy:
            return self._rl_peer.ask("isinstance", f=instance._rl_number, c=self._rl_number) is True
        return isinstance(instance, tuple) and type(instance).__name__ == self.__name__

    def __subclasscheck__(self, kind: Any) -> bool:
        """Whether a class of the program derives from this one."""
        return type(kind) is Proxy and self._rl_peer.ask("issubclass", f=kind._rl_number, c=self._rl_number) is True


# Set after the class body, in which Python would overwrite it with the annotations of Proxy itself.
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
    """An empty class with the name of a class of the program; the same name gives the same class."""
    if name not in _stand_ins:
        _stand_ins[name] = types.new_class(name)
    return _stand_ins[name]
