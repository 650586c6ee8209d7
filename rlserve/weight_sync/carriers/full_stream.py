"""All bytes of a version in chunks over the Fetch RPC, to anyone.

On the wire: the worker gives ``chunk_bytes`` when it wants another size than the learner's; the header gives sizes.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.base import Carrier, NextChunk, Offer
from rlserve.weight_sync.carriers.chunks import chunk_of, received
from rlserve.weight_sync.manifest import check
from rlserve.weight_sync.mapped_file import MappedFile
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging


class FullSender:
    """Sends all bytes, to anyone."""

    def __init__(self, publisher: Publisher, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        size, total = request.chunk_bytes or self._chunk_bytes, published.policy.total_bytes
        header = pb.FetchHeader(
            version=published.policy.version,
            encoding=pb.ENCODING_FULL,
            total_bytes=total,
            num_chunks=-(-total // size),
        )
        return Offer(header, _chunks(published, size))


class FullReceiver:
    """Writes the chunks into a file of its own and checks it."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        """A full copy needs no word."""

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        if header.total_bytes != policy.total_bytes:
            raise WeightsMismatch(
                f"version {policy.version}: {header.total_bytes} bytes are announced, not {policy.total_bytes}"
            )
        file = await asyncio.to_thread(self._staging.create, policy)
        try:
            await _write(file, policy, header.num_chunks, next_chunk)
            # In a thread: digesting a large version would hold up the streams of this worker.
            await asyncio.to_thread(check, policy, file.flat)
        except BaseException:
            file.discard()
            raise
        return self._staging.keep(policy, file)


async def _chunks(published: Published, size: int) -> AsyncIterator[pb.Chunk]:
    for index, start in enumerate(range(0, published.policy.total_bytes, size)):
        yield chunk_of(index, published.file.read(start, size))
        # Large fetches must not keep acks and announcements waiting.
        await asyncio.sleep(0)


async def _write(file: MappedFile, policy: PolicyVersion, count: int, next_chunk: NextChunk) -> None:
    written = 0
    for index in range(count):
        data = (await received(policy, index, next_chunk)).data
        place = file.content[written : written + len(data)]
        # A header with fewer bytes than its chunks have must not make them be written anywhere.
        if place.size != len(data):
            raise WeightsMismatch(f"version {policy.version}: more bytes came than the {file.size} announced")
        place[:] = np.frombuffer(data, dtype=np.uint8)
        written += len(data)
    if written != file.size:
        raise WeightsMismatch(f"version {policy.version}: {written} bytes came, not {file.size}")


FULL_STREAM = Carrier("full_stream", FullSender, FullReceiver)
