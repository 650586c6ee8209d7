"""Decodes payloads: JSON objects with known fields, checked in the same way for every verifier."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from rlserve.errors import InvalidRequest

MAX_TEXT_CHARACTERS = 100_000
"""Of one text in a payload. Any value of this size will do: the whole payload is bounded by the message size."""


def decode_object(payload: bytes, *, fields: Collection[str]) -> Mapping[str, Any]:
    """Return the JSON object in ``payload``, which may have only ``fields``. Raises InvalidRequest."""
    known = ", ".join(sorted(fields))
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested some thousand deep
        raise InvalidRequest(f"payload: is not JSON ({error}); send an object with {known}") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"payload: is a {type(content).__name__}; send an object with {known}")
    # Unknown fields are refused: a misspelt option would otherwise be ignored in every task of a file.
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise InvalidRequest(f"payload.{unknown[0][:40]}: is unknown (known: {known}); leave it out")
    return content


def texts(content: Mapping[str, Any], field: str, *, max_characters: int = MAX_TEXT_CHARACTERS) -> tuple[str, ...]:
    """Return a field that is one text or a list of texts, none of them empty. Raises InvalidRequest."""
    value = content.get(field)
    items: list[Any] = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str) or not item.strip() or len(item) > max_characters:
            wanted = f"a text of 1 to {max_characters} characters"
            raise InvalidRequest(f"payload.{field}: is {str(item)[:40]!a}; send {wanted}")
    if not items:
        raise InvalidRequest(f"payload.{field}: is an empty list; send at least one text")
    return tuple(items)


def flag(content: Mapping[str, Any], field: str) -> bool:
    """Return a field that is true or false; false when absent. Raises InvalidRequest."""
    value = content.get(field, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"payload.{field}: is {str(value)[:40]!a}; send true or false")
    return value
