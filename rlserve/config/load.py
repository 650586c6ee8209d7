"""Configuration from TOML files and dotted overrides: defaults < a file's ``base`` < files left to right < ``--unset``
< ``--set``.

Errors name the key, the value and the fix; an unknown key is answered with the nearest known one.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rlserve.config.base import Section
from rlserve.config.faults import explain
from rlserve.config.run import RunConfig
from rlserve.config.schema import keys_at
from rlserve.config.shipped import found, shipped
from rlserve.errors import ConfigError, InvalidRequest
from rlserve.nearest import nearest
from rlserve.references import anchored
from rlserve.text_files import read_text

S = TypeVar("S", bound=Section)


def load_run(paths: Sequence[str | Path], overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> RunConfig:
    """The run configuration of these files, without the keys ``unset``, and with ``key.path=value`` overrides.

    Raises ConfigError.
    """
    return load(RunConfig, paths, overrides, unset)


def load(section: type[S], paths: Sequence[str | Path], overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> S:
    """Any section from files and overrides. Raises ConfigError."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_with_base(path))
    # Between files and --set, so that one command can remove a table and put another in its place.
    for key in unset:
        merged = without(section, merged, key)
    for text in overrides:
        # What is typed is meant from where it is typed; what stands in a file, from that file.
        merged = merge(merged, anchored(parse_override(text), Path.cwd()))
    return validate(section, merged)


def read_with_base(path: str | Path, *, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A TOML file over the one that its key ``base`` names: beside it, or a shipped configuration."""
    here = found(Path(path)).resolve()
    if here in seen:
        raise ConfigError(f"base: {str(path)!r} is its own base, over {' and '.join(p.name for p in seen)}")
    # Only a file may have a base: it is relative to that file, and an override has no place on disk.
    values: dict[str, Any] = anchored(read_toml(path), here.parent)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"base: is {base!r} in {str(path)!r}; give the path of a TOML file")
    beside = here.parent / base
    below = beside if beside.is_file() else shipped().get(base, beside)
    return merge(read_with_base(below, seen=(*seen, here)), values)


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dictionary; a missing or broken one is a ConfigError that says where."""
    file = found(Path(path))
    if not file.exists():
        raise ConfigError(f"config: no file {str(path)!r}; shipped ones are {', '.join(shipped()) or 'missing here'}")
    if file.is_dir():
        is_run = (file / "config.toml").exists()
        way = f"to continue that run: rlserve run --resume {path}" if is_run else "give a TOML file"
        raise ConfigError(f"config: {str(path)!r} cannot be read (it is a directory); {way}")
    try:
        return tomllib.loads(read_text(file))
    except InvalidRequest as error:
        raise ConfigError(f"config: {error}; give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config: {str(path)!r} is not TOML: {error}") from error


def parse_override(text: str) -> dict[str, Any]:
    """``"learner.lr=1e-5"`` as ``{"learner": {"lr": 1e-5}}``; a value that is no TOML is a string."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set: {text!r} is not KEY=VALUE, e.g. learner.lr=1e-5")
    try:
        # A shell strips quotes: without the fallback to a string, --set name=mine would need two layers of them.
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    nested: Any = value
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return dict(nested)


def without(section: type[Section], values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """``values`` less the one at a dotted ``key``, set or not. Raises ConfigError for a key that does not exist."""
    first, _, rest = key.partition(".")
    known = keys_at(section, ())
    # Only the first part is checked against the schema: below it, tables of plug-ins have keys that no schema knows.
    if first not in values and first not in known:
        near = nearest(first, known)
        raise ConfigError(f"--unset: {first!r} is no key" + (f"; did you mean {near!r}?" if near else ""))
    result = dict(values)
    inside = result.get(first)
    if not rest:
        result.pop(first, None)
    elif isinstance(inside, Mapping):
        result[first] = _without(inside, rest.split("."))
    return result


def _without(values: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    result = dict(values)
    if len(parts) == 1:
        result.pop(parts[0], None)
    elif isinstance(result.get(parts[0]), Mapping):
        result[parts[0]] = _without(result[parts[0]], parts[1:])
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; anything else in ``over`` replaces what is in ``base``.

    A table of another ``type`` has other keys: it replaces the whole one. A numeric key replaces one element of an
    array of tables (``environments.0.weight=2``).
    """
    result = dict(base)
    for key, value in over.items():
        present = result.get(key)
        if isinstance(present, Mapping) and isinstance(value, Mapping):
            # Keys of one algorithm would be unknown keys of another.
            another = "type" in value and "type" in present and value["type"] != present["type"]
            result[key] = dict(value) if another else merge(present, value)
        elif isinstance(present, list) and isinstance(value, Mapping):
            result[key] = _merge_elements(key, present, value)
        else:
            result[key] = value
    return result


def _merge_elements(key: str, elements: list[Any], over: Mapping[str, Any]) -> list[Any]:
    merged = list(elements)
    for index, value in over.items():
        if not index.isdigit() or int(index) >= len(merged):
            raise ConfigError(f"{key}.{index}: is no element; {key} has {len(merged)}, counted from 0")
        old = merged[int(index)]
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[int(index)] = merge(old, value) if both else value
    return merged


def validate(section: type[S], values: Mapping[str, Any]) -> S:
    """Values checked against a section. Raises one ConfigError that lists every fault."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        # All faults at once: a user should not have to start ten times to find ten slips.
        faults = explain(section, error)
        # from None: pydantic's own text names internal tags of unions.
        raise ConfigError("\n".join(faults), field=faults[0].split(":", 1)[0]) from None


def to_toml(section: Section) -> str:
    """A section as TOML that loads back to an equal one; unset optional values are left out."""
    # TOML has no null: an optional value that is left out loads back as None.
    return "\n".join(_table(section.model_dump(mode="json", exclude_none=True), ())) + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    # Plain values first: a key behind a [table] header would belong to that table.
    lines = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if not _is_table(v)]
    for key, value in values.items():
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *_table(value, (*path, key))]
        elif _is_table(value):
            for element in value:
                lines += ["", f"[[{name}]]", *_table(element, (*path, key))]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        # An empty list has no [[header]] to stand under; it is written as a value.
        isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)
    )


def _key(key: str) -> str:
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return _string(value)
    # repr gives the shortest text that reads back to the same float, and inf and nan as TOML spells them; JSON has
    # Infinity.
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for surrogate pairs (hence no ASCII) and the raw DEL that TOML forbids.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
