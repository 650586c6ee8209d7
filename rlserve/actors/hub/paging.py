"""Long lists in parts, each well within what a caller takes as one message."""

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

PAGE_BYTES = 2**20


def page(messages: Mapping[str, M], after: str) -> tuple[list[M], str]:
    """The messages whose key comes after ``after``, in order, as far as they fit; and where to go on, empty at the end.

    One message goes out however large it is.
    """
    found: list[M] = []
    size, last = 0, ""
    for key in sorted(key for key in messages if key > after):
        size += messages[key].ByteSize()
        if found and size > PAGE_BYTES:
            return found, last
        found.append(messages[key])
        last = key
    return found, ""
