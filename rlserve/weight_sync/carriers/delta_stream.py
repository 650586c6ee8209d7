"""The difference to the version that the worker holds, in chunks over the Fetch RPC, sent while it is made.

A worker that missed versions gets the differences between them, one after the other: those that were made for others
are kept for a while, longer than the versions themselves.

On the wire: the worker gives ``held_version`` when it has that version's bytes; the header gives ``base_version`` and
goes out before the first piece is encoded; the last chunk says that it is the last.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rlserve.errors import Unavailable, WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync import delta
from rlserve.weight_sync.carriers.base import Carrier, NextChunk, Offer
from rlserve.weight_sync.carriers.chunks import chunk_of, received
from rlserve.weight_sync.manifest import check
from rlserve.weight_sync.mapped_file import MappedFile
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging

logger = logging.getLogger(__name__)

CHAIN = 4
"""Differences that are kept: a worker may miss three versions. Each takes a few hundredths of the model in memory."""


class Encoding:
    """The pieces of one difference: made once, in a thread, for all workers that ask for it."""

    def __init__(self, old: Published, new: Published) -> None:
        """``is_worthwhile`` must be awaited first."""
        self._versions: tuple[Published, Published] | None = (old, new)
        self.base, self.policy = old.policy, new.policy
        self._pieces: list[bytes] = []
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._worthwhile: asyncio.Task[bool] | None = None

    async def is_worthwhile(self) -> bool:
        """Whether it may be smaller than a full copy; begins to make it then."""
        if self._worthwhile is None:
            self._worthwhile = asyncio.create_task(asyncio.to_thread(self._begin))
        # Shielded: another caller waits for the same task.
        return await asyncio.shield(self._worthwhile)

    @property
    def made_bytes(self) -> int:
        """Of the pieces so far."""
        return sum(map(len, self._pieces))

    def piece(self, number: int) -> bytes | None:
        """Waits for a piece; None after the last. Raises what the encoding raised, ``delta.TooLarge`` too."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._pieces) > number or self._ended)
            if number < len(self._pieces):
                return self._pieces[number]
            if self._error is not None:
                raise self._error
            return None

    def _begin(self) -> bool:
        # Not kept any longer than the encoding takes: the files of versions that are held are not written again.
        versions, self._versions = self._versions, None
        assert versions is not None, "it is begun once"
        old, new = versions
        same = [(t.name, t.shape, t.dtype) for t in old.policy.tensors] == [
            (t.name, t.shape, t.dtype) for t in new.policy.tensors
        ]
        if not same:
            return False
        try:
            # Before the mappings are read.
            old.file.check_whole()
            new.file.check_whole()
        except Unavailable as error:
            logger.warning("no delta is made: %s", error)
            return False
        if not delta.is_worthwhile(old.flat, new.flat, new.policy.tensors):
            return False
        threading.Thread(target=self._encode, args=(old, new), name="encode-delta", daemon=True).start()
        return True

    def _encode(self, old: Published, new: Published) -> None:
        try:
            for piece in delta.encode(old.flat, new.flat, new.policy.tensors):
                with self._changed:
                    self._pieces.append(piece)
                    self._changed.notify_all()
        except BaseException as error:  # raised to those who wait for a piece
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class DeltaSender:
    """Sends the difference to the version that the caller holds, where that is smaller than a full copy."""

    def __init__(self, publisher: Publisher, chunk_bytes: int) -> None:
        self._publisher = publisher
        self._chunk_bytes = chunk_bytes
        self._encodings: list[Encoding] = []
        """The newest last, at most CHAIN."""

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        if not request.HasField("held_version") or request.held_version == request.version:
            return None
        chain = await self._chain(request.held_version, published)
        if not chain or sum(e.made_bytes for e in chain) > delta.MAX_SHARE * published.policy.total_bytes:
            return None
        header = pb.FetchHeader(version=request.version, encoding=pb.ENCODING_DELTA, base_version=request.held_version)
        return Offer(header, _chunks(chain, request.chunk_bytes or self._chunk_bytes))

    async def _chain(self, held: int, published: Published) -> list[Encoding]:
        """The differences from the held version to this one, in order; empty when there is no way or no use."""
        # In one step while both versions are kept; otherwise the last step starts from the version before.
        base = self._publisher.find(held) or self._publisher.find(published.policy.parent_version or 0)
        if base is None or base.policy.version >= published.policy.version:
            return []
        chain = [self._encoding(base, published)]
        while chain[0].base.version != held and len(chain) < CHAIN:
            before = [e for e in self._encodings if e.policy.digest == chain[0].base.digest and e is not chain[0]]
            if not before:
                return []
            chain.insert(0, before[-1])
        if chain[0].base.version != held:
            return []
        if chain[-1] not in self._encodings:
            self._encodings = [*self._encodings, chain[-1]][-CHAIN:]
        return chain if all([await encoding.is_worthwhile() for encoding in chain]) else []

    def _encoding(self, base: Published, published: Published) -> Encoding:
        for encoding in self._encodings:
            # By digest, since a number may be published again with other weights.
            if (encoding.base.digest, encoding.policy.digest) == (base.policy.digest, published.policy.digest):
                return encoding
        return Encoding(base, published)


class DeltaReceiver:
    """Applies a difference to the version that was staged last, as it comes."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        # What the engine serves may have come as the learner's own file: then no bytes to add a delta to are staged
        # here.
        if held is not None and self._staging.held(held) is not None:
            request.held_version = held

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        base = self._staging.held(header.base_version)
        if base is None or base.size != policy.total_bytes:
            raise WeightsMismatch(f"version {policy.version}: a delta to a version that is not held came")
        file = await asyncio.to_thread(self._staging.create, policy)
        try:
            # In threads: these take as long as reading the whole version, and the streams of this worker go on.
            await asyncio.to_thread(file.content.__setitem__, slice(None), base)
            await _apply(file, policy, next_chunk)
            await asyncio.to_thread(check, policy, file.flat)
        except BaseException:
            file.discard()
            raise
        return self._staging.keep(policy, file)


async def _apply(file: MappedFile, policy: PolicyVersion, next_chunk: NextChunk) -> None:
    decoder = delta.Decoder(file.content, policy.tensors)
    index, last = 0, False
    while not last:
        chunk = await received(policy, index, next_chunk)
        await asyncio.to_thread(decoder.feed, chunk.data)
        index, last = index + 1, chunk.last
    decoder.finish()


async def _chunks(chain: Sequence[Encoding], size: int) -> AsyncIterator[pb.Chunk]:
    index, piece = 0, b""
    try:
        async for following in _pieces(chain):
            for start in range(0, len(piece), size):
                yield chunk_of(index, piece[start : start + size])
                index += 1
            piece = following
    except delta.TooLarge:
        logger.info("a delta is larger than a full copy after all: its stream ends early")
        return
    for start in range(0, len(piece), size):
        yield chunk_of(index, piece[start : start + size], last=start + size >= len(piece))
        index += 1


async def _pieces(chain: Sequence[Encoding]) -> AsyncIterator[bytes]:
    for encoding in chain:
        number = 0
        while (piece := await asyncio.to_thread(encoding.piece, number)) is not None:
            yield piece
            number += 1


DELTA_STREAM = Carrier("delta_stream", DeltaSender, DeltaReceiver)
