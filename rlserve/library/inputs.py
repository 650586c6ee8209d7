"""Objects of a script as what a configuration can say: references to functions and classes, files of rows.

What lies in no file yet is written below the run's ``inputs`` when the run starts.
"""

import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlserve import references
from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest
from rlserve.library.source import is_definition, source_of

SPLITS = {"train": "path", "validation": "validation_path", "test": "test_path"}
"""Splits of ``data``, and the options of the environment that names their files."""
DIGEST_CHARACTERS = 10
"""Of a hash in a file's name: as many contents of one run do not collide."""


class Inputs:
    """References and paths for a run in ``paths``, and the files to write for them."""

    def __init__(self, paths: RunPaths) -> None:
        self._folder = paths.inputs.absolute()
        self.files: dict[str, Callable[[Path], None]] = {}
        """By name, below ``paths.inputs``."""

    def reference(self, thing: Any, *, what: str) -> str:
        """A plug-in's name, a reference, or a function or class, as text. Raises InvalidRequest, naming ``what``."""
        if isinstance(thing, str):
            return str(references.anchored(thing, Path.cwd()))
        if not is_definition(thing):
            raise InvalidRequest(
                f'{what}: is {_shown(thing)}; give a function or class of `def` or `class`, or "FILE.py:NAME"'
            )
        if thing.__name__ == "<lambda>":
            raise InvalidRequest(f"{what}: is a lambda, which has no name; write it with `def`")
        name, module = str(thing.__name__), sys.modules.get(thing.__module__)
        file = getattr(module, "__file__", None)
        # What a module has under its name is found there again by any process; importing __main__ would run the script.
        if file and thing.__module__ != "__main__" and getattr(module, name, None) is thing:
            return f"{Path(file).absolute()}:{name}"
        text = source_of(thing, what=what)
        return f"{self._file(name, '.py', text.encode())}:{name}"

    def reward(self, value: Any) -> list[dict[str, Any]]:
        """The functions of ``reward``: one, or a list of functions, references, tables and (function, weight)."""
        several = value if isinstance(value, list) else [value]
        return [self._weighted(one) for one in several]

    def data(self, value: Any) -> dict[str, str]:
        """Options of the environment ``dataset``: for a path, a name, rows, a ``datasets.Dataset``, splits of these."""
        if isinstance(value, Mapping) and not hasattr(value, "to_parquet"):
            unknown = [split for split in value if split not in SPLITS]
            if unknown or "train" not in value:
                wrong = f"has {unknown[0]!r}" if unknown else "has no 'train'"
                raise InvalidRequest(f"data: {wrong}; give train, and test or validation if you like")
            return {SPLITS[split]: self._rows(rows, f"data[{split!r}]", split) for split, rows in value.items()}
        return {"path": self._rows(value, "data", "train")}

    def place(self, name: str) -> Path:
        """Where a file lies."""
        return self._folder / name

    def _weighted(self, one: Any) -> dict[str, Any]:
        if isinstance(one, Mapping):
            return {**one, "function": self.reference(one.get("function"), what="reward")}
        if isinstance(one, tuple):
            if len(one) != 2 or not isinstance(one[1], int | float):
                raise InvalidRequest(f"reward: has {_shown(one)}; give (function, weight)")
            return {"function": self.reference(one[0], what="reward"), "weight": one[1]}
        return {"function": self.reference(one, what="reward")}

    def _rows(self, value: Any, what: str, split: str) -> str:
        if isinstance(value, str | Path):
            # A name of the Hub is no file here.
            return str(Path(value).absolute()) if Path(value).exists() else str(value)
        if hasattr(value, "to_parquet"):  # a datasets.Dataset, or a table of pandas
            # Its fingerprint names its content; a table has none, and gets a name that no file has.
            mark = str(getattr(value, "_fingerprint", None) or f"{time.time_ns():x}"[-DIGEST_CHARACTERS:])
            return self._named(f"{split}-{mark[:DIGEST_CHARACTERS]}.parquet", functools.partial(_to_parquet, value))
        if not isinstance(value, Sequence) or not value or not all(isinstance(row, Mapping) for row in value):
            raise InvalidRequest(f"{what}: is {_shown(value)}; give a path, a list of dicts, or a datasets.Dataset")
        return self._file(split, ".jsonl", b"".join(_lines(value, what)))

    def _file(self, stem: str, suffix: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS]
        return self._named(f"{stem}-{digest}{suffix}", lambda path: _replace(path, content))

    def _named(self, name: str, write: Callable[[Path], None]) -> str:
        self.files[name] = write
        return str(self._folder / name)


def _replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _to_parquet(table: Any, path: Path) -> None:
    table.to_parquet(str(path))


def _lines(rows: Sequence[Mapping[str, Any]], what: str) -> Iterator[bytes]:
    for index, row in enumerate(rows):
        try:
            yield json.dumps(row, ensure_ascii=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"{what}: row {index} cannot be written as JSON ({error}); give plain values"
            ) from None


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} (a {type(value).__name__})"
