"""Python values as JSON that keeps tuples, sets and integer keys distinct; see ``inside/values``."""

from typing import Any

from rlserve.sandbox.inside.values import Decoder, Encoder, Unsupported


class NotPlain(ValueError):
    """An object that is not a plain value, or data that ``encode_plain`` cannot have made."""


def encode_plain(value: Any) -> Any:
    """The value as data for ``json.dumps``. Raises NotPlain."""
    try:
        return Encoder(_refuse).encode(value)
    except Unsupported as error:
        raise NotPlain(str(error)) from error


def decode_plain(data: Any) -> Any:
    """Rebuild an encoded value, from exact builtin types only. Raises NotPlain."""
    try:
        return Decoder(_refuse).decode(data)
    except Unsupported as error:
        raise NotPlain(str(error)) from error


def _refuse(*_: object) -> Any:
    raise Unsupported("it is not a plain value")
