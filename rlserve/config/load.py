"""Configuration from TOML files and dotted overrides: defaults < a file's ``base`` < files left to right < ``--set``.

Errors name the key, the value and the fix; an unknown key is answered with the nearest known one.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rlserve.config.base import Section
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, InvalidRequest
from rlserve.text_files import read_text

S = TypeVar("S", bound=Section)


def load_run(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> RunConfig:
    """The run configuration of these files and ``key.path=value`` overrides. Raises ConfigError."""
    return load(RunConfig, paths, overrides)


def load(section: type[S], paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> S:
    """Any section from files and overrides. Raises ConfigError."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_with_base(path))
    for text in overrides:
        merged = merge(merged, parse_override(text))
    return validate(section, merged)


def read_with_base(path: str | Path, *, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A TOML file over the file that its key ``base`` names, relative to its own directory."""
    here = Path(path).resolve()
    if here in seen:
        raise ConfigError(f"base: {str(path)!r} is its own base, over {' and '.join(p.name for p in seen)}")
    values = read_toml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"base: is {base!r} in {str(path)!r}; give the path of a TOML file")
    return merge(read_with_base(here.parent / base, seen=(*seen, here)), values)


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dictionary; a missing or broken one is a ConfigError that says where."""
    if not Path(path).exists():
        raise ConfigError(f"config: no file {str(path)!r}; shipped ones are in configs/")
    try:
        return tomllib.loads(read_text(path))
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
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    nested: Any = value
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return dict(nested)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; anything else in ``over`` replaces what is in ``base``.

    A table of another ``type`` has other keys: it replaces the whole one. A numeric key replaces one element of an
    array of tables (``environments.0.weight=2``).
    """
    result = dict(base)
    for key, value in over.items():
        present = result.get(key)
        if isinstance(present, Mapping) and isinstance(value, Mapping):
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
        faults = [_explain(section, fault) for fault in error.errors()]
        raise ConfigError("\n".join(faults), field=faults[0].split(":", 1)[0]) from None


def _explain(section: type[BaseModel], fault: Any) -> str:
    path, _ = _walk(section, fault["loc"])
    where = ".".join(path)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), _walk(section, fault["loc"][:-1])[1], n=1)
        return f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    if fault["type"] == "missing":
        return f"{where}: is missing; give it a value"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"{where}: is {fault['input']!r}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _walk(section: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """The path as a user writes it, without the tags of unions, and the keys known there."""
    schema: Any = section.model_json_schema()
    definitions = schema.get("$defs", {})
    node, path = schema, []
    for part in loc:
        node = _resolve(node, definitions)
        if "oneOf" in node:
            node = _tagged(node, str(part), definitions)
            continue
        path.append(str(part))
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return path, list(_resolve(node, definitions).get("properties", {}))


def _tagged(node: Any, tag: str, definitions: Mapping[str, Any]) -> Any:
    """The section of a union whose ``type`` is ``tag``; nothing for an open-ended one."""
    options = [_resolve(option, definitions) for option in node["oneOf"]]
    return next((o for o in options if o.get("properties", {}).get("type", {}).get("const") == tag), {})


def _resolve(node: Any, definitions: Mapping[str, Any]) -> Any:
    for option in node.get("anyOf", []):
        if "$ref" in option or "oneOf" in option:
            node = option
    while "$ref" in node:
        node = definitions[node["$ref"].rsplit("/", 1)[1]]
    return node


def to_toml(section: Section) -> str:
    """A section as TOML that loads back to an equal one; unset optional values are left out."""
    return "\n".join(_table(section.model_dump(mode="json", exclude_none=True), ())) + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
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
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for surrogate pairs (hence no ASCII) and the raw DEL that TOML forbids.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
