"""Values as JSON that keeps tuples, sets, integer keys and their like apart; see ``inside/values``."""

from typing import Any

from rlserve.sandbox.inside.values import Decoder, Encoder, Unsupported


class NotPlain(ValueError):
    """An object that is no plain value, or data that no encoder of ours made."""


def encode_plain(value: Any) -> Any:
    """What ``json.dumps`` takes. Raises NotPlain."""
    try:
        return Encoder(_refuse).encode(value)
    except Unsupported as error:
        raise NotPlain(str(error)) from error


def decode_plain(data: Any) -> Any:
    """The value that was encoded, of exact builtin types. Raises NotPlain."""
    try:
        return Decoder(_refuse).decode(data)
    except Unsupported as error:
        raise NotPlain(str(error)) from error


def _refuse(*_: object) -> Any:
    raise Unsupported("it is no plain value")
