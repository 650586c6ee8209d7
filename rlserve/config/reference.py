"""Every table and key of a configuration as one page of Markdown, from the sections themselves."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlserve.config.run import RunConfig
from rlserve.config.schema import resolve

HEAD = """# Every key of a configuration

Written by `rlserve config reference`; a test compares the two. A configuration is a TOML file; `base = "other.toml"` at
its top takes all keys of that file first (one beside it, or a shipped one: `base = "quickstart"`), `--set` and
`--unset` of a command go before any file. An unknown key is an error. `rlserve config schema > rlserve.schema.json`
writes the same as a JSON schema: with `#:schema rlserve.schema.json` as the first line of a configuration an editor
with a TOML language server (Taplo, Even Better TOML) completes and checks keys.
"""
BOUNDS = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("exclusiveMaximum", "below"))
KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "object": "table"}

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """One section and all places at which it stands."""

    section: Node
    places: list[str] = field(default_factory=list)


def reference() -> str:
    """The page."""
    schema = RunConfig.model_json_schema()
    lines = (line for table in tables_of(schema).values() for line in _part(table, schema.get("$defs", {})))
    return "\n".join([HEAD, *lines])


def tables_of(schema: Node) -> dict[str, Table]:
    """Every section by its name, in the order of the configuration; one that stands at several places is there once."""
    found: dict[str, Table] = {"": Table(schema)}
    _collect(schema, "", (), schema.get("$defs", {}), found)
    return found


def _collect(
    section: Node, place: str, above: tuple[str, ...], definitions: Mapping[str, Any], found: dict[str, Table]
) -> None:
    for key, node in section.get("properties", {}).items():
        is_array = node.get("type") == "array"
        inner = node.get("items", {}) if is_array else node
        path = f"{place}.{key}" if place else key
        for name in _sections(inner):
            inside = definitions[name]
            table = found.setdefault(name, Table(inside))
            kind = inside.get("properties", {}).get("type", {}).get("const")
            with_type = f' with `type = "{kind}"`' if kind and "oneOf" in inner else ""
            written = f"`[[{path}]]`" if is_array else f"`[{path}]`{with_type}"
            if written not in table.places:
                table.places.append(written)
            if name not in above:  # a mixture of corpora may hold mixtures
                _collect(inside, path, (*above, name), definitions, found)


def _sections(node: Node) -> Iterator[str]:
    for option in [node, *node.get("anyOf", []), *node.get("oneOf", [])]:
        if "$ref" in option:
            yield option["$ref"].rsplit("/", 1)[1]


def _part(table: Table, definitions: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {', '.join(table.places) or 'At the top'}"
    yield ""
    yield _prose(table.section.get("description", ""))
    yield ""
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    required = table.section.get("required", [])
    for key, node in table.section.get("properties", {}).items():
        meaning = _prose(node.get("description", "")) or _prose_of_section(node, definitions)
        default = "required" if key in required else _default(node)
        yield f"| `{key}` | {type_of(node)} | {default} | {meaning} |"
    yield ""


def _prose_of_section(node: Node, definitions: Mapping[str, Any]) -> str:
    if "const" in node:
        return "This table's kind."
    return _prose(resolve(node.get("items", node), definitions).get("description", "").partition("\n\n")[0])


def _prose(text: str) -> str:
    """A docstring as one line of Markdown for a cell."""
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def type_of(node: Node) -> str:
    """The type of a key in words, with its bounds."""
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    if options:
        return type_of({**options[0]})
    if "const" in node:
        return _code(node["const"])
    if "enum" in node:
        return ", ".join(map(_code, node["enum"]))
    if node.get("type") == "array":
        if "prefixItems" in node:
            return f"{len(node['prefixItems'])} {KINDS[node['prefixItems'][0]['type']]}s"
        items = node.get("items", {})
        return "tables" if "$ref" in items else f"list of {type_of(items)}"
    bounds = ", ".join(f"{words} {node[bound]:g}" for bound, words in BOUNDS if bound in node)
    kind = KINDS.get(node.get("type", "object"), "")
    return f"{kind} {bounds}".strip()


def _default(node: Node) -> str:
    if "$ref" in node or "oneOf" in node or (node.get("type") == "array" and "$ref" in node.get("items", {})):
        return ""
    if "default" not in node:
        return "`[]`" if node.get("type") == "array" else "`{}`"
    return "unset" if node["default"] is None else _code(node["default"])


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"
