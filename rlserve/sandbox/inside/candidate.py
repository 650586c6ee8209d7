"""Role "candidate": the program as a module, answering the calls of its tests. Knows nothing of the tests."""

import collections
import contextlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import program
from peer import Broken, Peer, describe, rebuild
from values import Unsupported

MODULE = "solution"
SPECIAL: dict[str, Callable[..., Any]] = {
    "len": len,
    "str": str,
    "repr": repr,
    "iter": iter,
    "int": int,
    "float": float,
    "getitem": lambda value, key: value[key],
}
MAX_CHUNK = 1024


def main(job: int, links: list[int]) -> int:
    """Load the program, then answer until the tests hang up."""
    source = program.read_job(job)["source"]
    program.prepare(sys.modules)
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    failure: list[str] | None = None
    try:
        exec(compile(source, program.NAME, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        program.exit_code(error)
        failure = describe(error)
    with contextlib.suppress(Broken):
        Candidate(links[0], links[1], vars(module), failure).serve_forever()
    return program.finish(0)


class Borrowed:
    """A function of the tests, lent for the time of a call."""

    def __init__(self, peer: "Candidate", number: int) -> None:
        self._peer, self._number = peer, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.call_back(self._number, args, kwargs)


class Candidate(Peer):
    """The program's end."""

    def __init__(self, incoming: int, outgoing: int, names: Mapping[str, Any], failure: list[str] | None) -> None:
        super().__init__(incoming, outgoing)
        self._names, self._failure = names, failure

    def refer(self, value: Any, kind: str) -> Any:
        module = value.__name__ if isinstance(value, types.ModuleType) else ""
        return {"t": "ref", "id": self.lend(value), "kind": "module" if module else kind, "name": module}

    def resolve(self, data: Any) -> Any:
        if data["t"] == "own":
            return self.objects[data["id"]]
        return Borrowed(self, data["id"])

    def call_back(self, number: int, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        answer = self.request("call", f=number, a=self._encode_all(args), k=self._encode_all(kwargs.values(), kwargs))
        if "v" in answer:
            return self.decode(answer["v"])
        raise rebuild(answer.get("e"))

    def serve(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = getattr(self, f"_{message['op']}")(message)
            return answer
        except Unsupported as error:
            return {"x": str(error)}
        except Broken:
            raise
        except BaseException as error:
            return {"e": describe(error)}

    def _load(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._failure is not None:
            return {"e": self._failure}
        found = {name: self.encode(self._names[name]) for name in message["names"] if name in self._names}
        return {"v": found}

    def _call(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        function = self.objects[message["f"]]
        args = [self.decode(data) for data in message["a"]]
        result = function(*args, **{name: self.decode(data) for name, data in message["k"]})
        sys.stdout.flush()
        answer = {"v": self.encode(result)}
        if result is None:  # only a call that returns nothing is taken to work by changing its arguments
            answer["a"] = [self.encode(arg) if isinstance(arg, _MUTABLE) else None for arg in args]
        return answer

    def _getattr(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"v": self.encode(getattr(self.objects[message["f"]], message["name"]))}

    def _setattr(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        setattr(self.objects[message["f"]], message["name"], self.decode(message["v"]))
        return {"v": None}

    def _special(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        value = self.objects[message["f"]]
        return {"v": self.encode(SPECIAL[message["name"]](value, *(self.decode(data) for data in message["a"])))}

    def _next(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        iterator: Any = self.objects[message["f"]]
        items: list[Any] = []
        for _ in range(min(message["count"], MAX_CHUNK)):
            try:
                items.append(self.encode(next(iterator)))
            except StopIteration:
                return {"v": items, "end": True}
        return {"v": items, "end": False}

    def _encode_all(self, values: Iterable[Any], names: Iterable[str] | None = None) -> list[Any]:
        encoded = [self.encode(value) for value in values]
        return encoded if names is None else [list(pair) for pair in zip(names, encoded, strict=True)]


_MUTABLE = (list, dict, set, bytearray, collections.deque)
