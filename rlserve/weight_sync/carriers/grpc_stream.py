"""Bytes in chunks over the Fetch RPC: as a delta to the version that the worker holds, or as a full copy.

On the wire: the worker gives ``held_version`` when it has that version's bytes, and ``chunk_bytes`` when it wants
another size than the learner's; the header gives encoding, sizes and, for a delta, ``base_version``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync import delta
from rlserve.weight_sync.carriers.base import Carrier, NextChunk, Offer
from rlserve.weight_sync.manifest import check, chunk_digest
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging

Read = Callable[[int, int], bytes]
"""Bytes from a start, of a size; fewer at the end."""


class DeltaSender:
    """Sends the difference to the version that the caller holds, where that is smaller than a full copy."""

    def __init__(self, publisher: Publisher, chunk_bytes: int) -> None:
        self._publisher = publisher
        self._chunk_bytes = chunk_bytes

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        if not request.HasField("held_version") or request.held_version == request.version:
            return None
        # Encoding takes as long as reading both versions: in a thread, for the event loop also serves acks.
        content = await asyncio.to_thread(self._publisher.delta, request.held_version, request.version)
        if content is None:
            return None
        header = pb.FetchHeader(version=request.version, encoding=pb.ENCODING_DELTA, base_version=request.held_version)
        return _in_chunks(header, _reader(content), len(content), request.chunk_bytes or self._chunk_bytes)


class FullSender:
    """Sends all bytes, to anyone."""

    def __init__(self, publisher: Publisher, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        header = pb.FetchHeader(version=published.policy.version, encoding=pb.ENCODING_FULL)
        size = request.chunk_bytes or self._chunk_bytes
        return _in_chunks(header, published.file.read, published.policy.total_bytes, size)


class DeltaReceiver:
    """Applies a difference to the version that was staged last."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        # What the engine serves may have come as the learner's own file: then no bytes to add a delta to are staged
        # here.
        if held is not None and self._staging.held(held) is not None:
            request.held_version = held

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        content = await _receive(policy, header, next_chunk)
        # In a thread: decoding and digesting a large version would hold up the streams of this worker.
        return await asyncio.to_thread(self._stage, policy, header.base_version, content)

    def _stage(self, policy: PolicyVersion, base_version: int, content: bytearray) -> Path:
        base = self._staging.held(base_version)
        if base is None:
            raise WeightsMismatch(f"version {policy.version}: a delta to a version that is not held came")
        flat = delta.apply(base, bytes(content), policy.tensors)
        check(policy, flat)
        return self._staging.write(policy, flat)


class FullReceiver:
    """Checks and stages a full copy."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        """A full copy needs no word."""

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        content = await _receive(policy, header, next_chunk)
        return await asyncio.to_thread(self._stage, policy, content)

    def _stage(self, policy: PolicyVersion, content: bytearray) -> Path:
        flat = np.frombuffer(content, dtype=np.uint8)
        check(policy, flat)
        return self._staging.write(policy, flat)


def _in_chunks(header: pb.FetchHeader, read: Read, total: int, size: int) -> Offer:
    header.total_bytes, header.num_chunks = total, -(-total // size)
    return Offer(header, _chunks(read, total, size))


def _reader(content: bytes) -> Read:
    return lambda start, size: content[start : start + size]


async def _chunks(read: Read, total: int, size: int) -> AsyncIterator[pb.Chunk]:
    for index, start in enumerate(range(0, total, size)):
        data = read(start, size)
        yield pb.Chunk(index=index, data=data, digest=chunk_digest(data))
        # Large fetches must not keep acks and announcements waiting.
        await asyncio.sleep(0)


async def _receive(policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> bytearray:
    """The bytes of all chunks. Raises WeightsMismatch when they are not those that the header announces."""
    # A delta is never larger than the full copy that it replaces.
    if header.total_bytes > policy.total_bytes:
        raise WeightsMismatch(f"version {policy.version}: {header.total_bytes} bytes are announced, too many")
    content = bytearray()
    for index in range(header.num_chunks):
        chunk = await next_chunk()
        if chunk.index != index or chunk_digest(chunk.data) != chunk.digest:
            raise WeightsMismatch(f"version {policy.version}: chunk {index} is damaged or out of order")
        content += chunk.data
        # A header with more chunks than bytes must not grow the buffer past what it announced.
        if len(content) > header.total_bytes:
            break
    if len(content) != header.total_bytes:
        raise WeightsMismatch(f"version {policy.version}: {len(content)} bytes came, not {header.total_bytes}")
    return content


DELTA_STREAM = Carrier("delta_stream", DeltaSender, DeltaReceiver)
FULL_STREAM = Carrier("full_stream", FullSender, FullReceiver)
