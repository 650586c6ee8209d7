"""Length-prefixed JSON messages between two boxes. Received bytes are parsed as data and never executed."""

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

HEAD = struct.Struct("<I")
MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Above the 7 MiB that a task's arguments and answers may have, and a small share of a box's memory when parsed."""


class Gone(Exception):
    """The other side closed its end."""


class BadFrame(Exception):
    """The received bytes are not a valid frame."""


def write(descriptor: int, message: Mapping[str, Any]) -> None:
    """Send one message. Raises Gone, or BadFrame when it is too large."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise BadFrame("too large")
    frame = memoryview(HEAD.pack(len(body)) + body)
    try:
        while frame:
            frame = frame[os.write(descriptor, frame) :]
    except OSError as error:
        raise Gone from error


def read(descriptor: int) -> dict[str, Any]:
    """Receive one message, a JSON object. Raises Gone or BadFrame."""
    (size,) = HEAD.unpack(_exactly(descriptor, HEAD.size))
    if size > MAX_FRAME_BYTES:
        raise BadFrame("too large")
    body = _exactly(descriptor, size)
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadFrame("not JSON") from error
    if not isinstance(message, dict):
        raise BadFrame("not a JSON object")
    return message


def _exactly(descriptor: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        try:
            part = os.read(descriptor, min(size, 1 << 20))  # os.read allocates what it is asked for before it reads
        except OSError as error:
            raise Gone from error
        if not part:
            raise Gone
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
