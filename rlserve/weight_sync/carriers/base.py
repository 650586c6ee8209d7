"""The interface of a carrier: one way to bring a version's bytes from the learner to a flat file on the worker's host.

One ``Fetch`` RPC is one attempt:

1. Worker: ``ask`` of each receiver writes into the request what its sender must know (a host, a held version).
2. Learner: ``offer`` of each sender in turn, until one can serve this caller; its header goes out, then its chunks.
3. Worker: ``take`` of the receiver that the header names returns the path of the flat file. When it raises
   WeightsMismatch, the next attempt asks for the carriers after it; when it raises Interrupted, the first time, for the
   same ones.

Chunks are for carriers that send through the RPC. Others leave ``FetchHeader.locator`` for the receiver to find the
bytes by, and read in ``FetchRequest.carriers`` what their own receiver wrote there.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging


class Interrupted(WeightsMismatch):
    """The way broke, whatever the bytes were: the version is asked for by the same carriers once more."""


NextChunk = Callable[[], Awaitable[pb.Chunk]]
"""The next chunk of the RPC. Raises DeadlineExceeded, which names the learner, when none comes in time."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A sender's answer to one caller."""

    header: pb.FetchHeader
    """Everything but ``carrier``, which the service fills in."""
    chunks: AsyncIterator[pb.Chunk] | None = None
    """The bytes, when they travel through the RPC."""


class Sender(Protocol):
    """The learner's end; lives as long as its service and serves many calls at once."""

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        """The version for this caller; None when this carrier cannot serve it."""
        ...


class Receiver(Protocol):
    """The worker's end; lives as long as its subscriber and serves one call at a time."""

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        """Write into ``request`` what the sender must know. ``held`` is the version that the worker serves."""
        ...

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        """A flat file with the bytes of ``policy``. Raises WeightsMismatch when what came cannot be used.

        The engine digests each tensor when it stages the file: a receiver may leave that to it, but for the last of
        the list.
        """
        ...


@dataclass(frozen=True, slots=True)
class Carrier:
    """A carrier's name and its two ends.

    For example, ``Carrier("shared_file", SharedFileSender, SharedFileReceiver)``.
    """

    name: str
    """On the wire, in logs and in counts."""
    sender: Callable[[Publisher, int], Sender]
    """Called with the publisher and the configured bytes of a chunk."""
    receiver: Callable[[Staging], Receiver]
    """Called with the place for the worker's own copies."""
