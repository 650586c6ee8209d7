"""The keys of a section, from its JSON schema: which are known at a path, and at which paths a name is known."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel


def walk(section: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """The path as a user writes it, without the tags of unions, and the keys known at it."""
    schema: Any = section.model_json_schema()
    definitions = schema.get("$defs", {})
    node, path = schema, []
    for part in loc:
        node = resolve(node, definitions)
        # pydantic puts the tag of a discriminated union into an error's location, where a user's path has no such part.
        if "oneOf" in node:
            node = _tagged(node, str(part), definitions)
            continue
        path.append(str(part))
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return path, list(resolve(node, definitions).get("properties", {}))


def keys_at(section: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys known at ``loc``."""
    return walk(section, loc)[1]


def places_of(section: type[BaseModel], name: str) -> list[str]:
    """Dotted keys called ``name`` in the section and one level below it, arrays and unions left out."""
    schema: Any = section.model_json_schema()
    definitions = schema.get("$defs", {})
    return [key for key in _keys(schema, definitions) if key.rsplit(".", 1)[-1] == name]


def _keys(schema: Any, definitions: Mapping[str, Any]) -> Iterator[str]:
    for key, node in schema.get("properties", {}).items():
        yield key
        yield from (f"{key}.{inner}" for inner in resolve(node, definitions).get("properties", {}))


def _tagged(node: Any, tag: str, definitions: Mapping[str, Any]) -> Any:
    """The section of a union whose ``type`` is ``tag``; empty for a plug-in's."""
    # JSON Schema marks the value of a one-valued Literal as const.
    options = [resolve(option, definitions) for option in node["oneOf"]]
    return next((o for o in options if o.get("properties", {}).get("type", {}).get("const") == tag), {})


def resolve(node: Any, definitions: Mapping[str, Any]) -> Any:
    """The section that a node refers to, or the node itself."""
    for option in node.get("anyOf", []):
        # Optional tables: anyOf a section and null.
        if "$ref" in option or "oneOf" in option:
            node = option
    while "$ref" in node:
        node = definitions[node["$ref"].rsplit("/", 1)[1]]
    return node
