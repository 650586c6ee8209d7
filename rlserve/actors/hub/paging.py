"""Splits long lists into pages that fit well within gRPC's message limit."""

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

PAGE_BYTES = 2**20
"""A quarter of gRPC's default limit of 4 MiB per message, so one large entry more still fits."""


def page(messages: Mapping[str, M], after: str) -> tuple[list[M], str]:
    """The next messages after key ``after``, in order, and the key to continue from (empty at the end).

    A page has at least one message, however large that one is.
    """
    found: list[M] = []
    size, last = 0, ""
    # By key, not by position: an entry that comes or goes between two pages shifts no other.
    for key in sorted(key for key in messages if key > after):
        size += messages[key].ByteSize()
        if found and size > PAGE_BYTES:
            return found, last
        found.append(messages[key])
        last = key
    return found, ""
