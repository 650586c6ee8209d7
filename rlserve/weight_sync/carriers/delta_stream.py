"""The difference to the version that the worker holds, in chunks over the Fetch RPC, sent while it is made.

On the wire: the worker gives ``held_version`` when it has that version's bytes; the header gives ``base_version`` and
goes out before the first piece is encoded; the last chunk says that it is the last.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
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


class Encoding:
    """The pieces of one difference: made once, in a thread, for all workers that ask for it."""

    def __init__(self, old: Published, new: Published) -> None:
        """``is_worthwhile`` must be awaited first."""
        self._versions: tuple[Published, Published] | None = (old, new)
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
        self._encodings: dict[tuple[int, str, str], Encoding] = {}

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        if not request.HasField("held_version") or request.held_version == request.version:
            return None
        base = self._publisher.find(request.held_version)
        if base is None:
            return None
        encoding = self._encoding(base, published)
        if not await encoding.is_worthwhile():
            return None
        header = pb.FetchHeader(version=request.version, encoding=pb.ENCODING_DELTA, base_version=request.held_version)
        return Offer(header, _chunks(encoding, request.chunk_bytes or self._chunk_bytes))

    def _encoding(self, base: Published, published: Published) -> Encoding:
        # By digest, too: a number may be published again with other weights.
        key = (published.policy.version, base.policy.digest, published.policy.digest)
        if key not in self._encodings:
            # Those to older versions are given up: who needs one still holds it.
            self._encodings = {k: e for k, e in self._encodings.items() if k[0] >= published.policy.version}
            self._encodings[key] = Encoding(base, published)
        return self._encodings[key]


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


async def _chunks(encoding: Encoding, size: int) -> AsyncIterator[pb.Chunk]:
    index, number = 0, 0
    try:
        piece = await asyncio.to_thread(encoding.piece, 0)
        while piece is not None:
            number += 1
            following = await asyncio.to_thread(encoding.piece, number)
            for start in range(0, len(piece), size):
                last = following is None and start + size >= len(piece)
                yield chunk_of(index, piece[start : start + size], last=last)
                index += 1
            piece = following
    except delta.TooLarge:
        logger.info("a delta is larger than a full copy after all: its stream ends early")


DELTA_STREAM = Carrier("delta_stream", DeltaSender, DeltaReceiver)
