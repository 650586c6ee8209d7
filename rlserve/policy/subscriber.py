"""Obtains published versions: announced, fetched, checked, staged as a flat file on this host.

``versions``  waits for: the learner's announcement. unblocked by: each publish. A broken stream is opened again
              for as long as the caller iterates; the caller decides when to give up.
``fetch``     waits for: chunks. Every chunk has a deadline whose end names the learner.

The way of a version: the publisher's own file when it is on this host; else a delta to the version that is held;
else (or when what came does not have the published digests) a full copy.
"""

import asyncio
import contextlib
import logging
import mmap
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from rlserve.errors import DeadlineExceeded, InvalidRequest, RlserveError, WeightsMismatch
from rlserve.policy import delta
from rlserve.policy.host import host_id
from rlserve.policy.manifest import Bytes, check, tensor_digest
from rlserve.policy.publisher import PREFIX, remove_leftovers
from rlserve.records import PolicyVersion
from rlserve.rpc import codec
from rlserve.rpc.channel import call, rpc_errors
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.25
Connect = Callable[[], Awaitable[grpc.aio.Channel]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a worker reports after a swap."""

    version: int
    digest: str
    """Of the weights that the engine serves."""
    stall_seconds: float
    update_seconds: float
    running_sequences: int


@dataclass(slots=True)
class FetchCounts:
    """How versions came."""

    shared: int = 0
    delta: int = 0
    full: int = 0
    refused: int = 0
    """Copies thrown away because their digests did not match."""


class Subscriber:
    """One worker's view of the policy stream."""

    def __init__(
        self,
        connect: Connect,
        *,
        worker_id: str,
        staging: Path,
        chunk_seconds: float = 30.0,
        use_shared_memory: bool = True,
    ) -> None:
        self._connect = connect
        self._worker_id = worker_id
        self._staging = staging
        self._chunk_seconds = chunk_seconds
        self._host_id = host_id() if use_shared_memory else ""
        self._token = uuid.uuid4().hex[:8]
        self._channel: grpc.aio.Channel | None = None
        self._held: tuple[int, Bytes] | None = None
        self._own_files: list[Path] = []
        self.counts = FetchCounts()
        remove_leftovers(staging)

    async def versions(self) -> AsyncIterator[PolicyVersion]:
        """The present version, then each newer one; a slow caller misses those in between."""
        while True:
            try:
                stub = await self._stub()
                async for response in stub.Announce(pb.AnnounceRequest(worker_id=self._worker_id)):
                    yield codec.policy_from_proto(response.policy)
            except (grpc.aio.AioRpcError, RlserveError) as error:
                logger.warning("policy stream broke (%s); opening it again", _short(error))
            await self._forget_channel()
            await asyncio.sleep(RETRY_SECONDS)

    async def fetch(self, policy: PolicyVersion, *, held: int | None) -> Path:
        """A flat file with exactly the bytes of ``policy``.

        ``held``: version that the caller serves and may be sent a delta from; None asks for a full copy.
        Raises WeightsMismatch when also the full copy is wrong, UnknownName when the version is gone already,
        Unavailable or DeadlineExceeded when the learner does not answer.
        """
        base = self._held if held is not None and self._held and self._held[0] == held else None
        for attempt in ([base] if base else []) + [None]:
            try:
                return await self._fetch_once(policy, attempt)
            except WeightsMismatch as error:
                self.counts.refused += 1
                if attempt is None:
                    raise
                logger.warning("%s; asking for a full copy", error)
        raise AssertionError("unreachable")

    async def confirm(self, confirmation: Confirmation) -> None:
        """Tell the learner what is served. Raises WeightsMismatch when it published something else."""
        stub = await self._stub()
        request = pb.ConfirmRequest(
            worker_id=self._worker_id,
            version=confirmation.version,
            digest=confirmation.digest,
            stall_seconds=confirmation.stall_seconds,
            update_seconds=confirmation.update_seconds,
            running_sequences=confirmation.running_sequences,
        )
        await call(stub.Confirm, request, deadline_seconds=self._chunk_seconds, what="learner (Confirm)")

    async def close(self) -> None:
        """Close the channel and remove staged files."""
        await self._forget_channel()
        for path in self._own_files:
            path.unlink(missing_ok=True)
        self._held = None

    async def _fetch_once(self, policy: PolicyVersion, base: tuple[int, Bytes] | None) -> Path:
        stub = await self._stub()
        request = pb.FetchRequest(
            worker_id=self._worker_id,
            version=policy.version,
            held_version=base[0] if base else None,
            host_id=self._host_id,
        )
        with rpc_errors(f"learner (weights of version {policy.version})"):
            stream = stub.Fetch(request)
            try:
                header = (await self._next(stream, policy)).header
                if header.shared_path and self._host_id:
                    return self._use_shared(policy, Path(header.shared_path))
                content = await self._receive(stream, header, policy)
            finally:
                stream.cancel()
        return await asyncio.to_thread(self._stage, policy, header, content, base)

    def _use_shared(self, policy: PolicyVersion, path: Path) -> Path:
        # The engine checks each tensor's digest when it stages the file; a second pass here would only cost.
        if not path.is_file() or path.stat().st_size != policy.total_bytes:
            raise WeightsMismatch(f"version {policy.version}: the shared file is not whole")
        self.counts.shared += 1
        return path

    async def _receive(self, stream: Any, header: pb.FetchHeader, policy: PolicyVersion) -> bytearray:
        # A delta is never larger than the full copy it stands for.
        if header.total_bytes > policy.total_bytes:
            raise WeightsMismatch(f"version {policy.version}: {header.total_bytes} bytes are announced, too many")
        content = bytearray()
        for index in range(header.num_chunks):
            chunk = (await self._next(stream, policy)).chunk
            if chunk.index != index or tensor_digest(chunk.data) != chunk.digest:
                raise WeightsMismatch(f"version {policy.version}: chunk {index} is damaged or out of order")
            content += chunk.data
            if len(content) > header.total_bytes:
                break
        if len(content) != header.total_bytes:
            raise WeightsMismatch(f"version {policy.version}: {len(content)} bytes came, not {header.total_bytes}")
        return content

    async def _next(self, stream: Any, policy: PolicyVersion) -> pb.FetchResponse:
        try:
            async with asyncio.timeout(self._chunk_seconds):
                response = await stream.read()
        except TimeoutError:
            raise DeadlineExceeded(
                f"learner: sent no part of version {policy.version} for {self._chunk_seconds:g} s; it is asked again"
            ) from None
        if response is grpc.aio.EOF:
            raise WeightsMismatch(f"version {policy.version}: the stream ended early")
        if not isinstance(response, pb.FetchResponse):
            raise InvalidRequest("fetch: an unknown frame came")
        return response

    def _stage(
        self,
        policy: PolicyVersion,
        header: pb.FetchHeader,
        content: bytearray,
        base: tuple[int, Bytes] | None,
    ) -> Path:
        if header.encoding == pb.ENCODING_DELTA:
            if base is None or header.base_version != base[0]:
                raise WeightsMismatch(f"version {policy.version}: a delta to a version that is not held came")
            flat = delta.apply(base[1], bytes(content), policy.tensors)
            self.counts.delta += 1
        else:
            flat = np.frombuffer(content, dtype=np.uint8)
            self.counts.full += 1
        check(policy, flat.data)
        return self._write(policy, flat)

    def _write(self, policy: PolicyVersion, flat: Bytes) -> Path:
        path = self._staging / f"{PREFIX}-{os.getpid()}-{self._token}-v{policy.version}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(flat.data)
        with open(path, "rb") as mapped:
            view = np.frombuffer(mmap.mmap(mapped.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        self._held = (policy.version, view)
        self._own_files.append(path)
        for old in self._own_files[:-2]:
            old.unlink(missing_ok=True)
        self._own_files = self._own_files[-2:]
        return path

    async def _stub(self) -> Any:
        if self._channel is None:
            self._channel = await self._connect()
        return pb_grpc.PolicyStreamServiceStub(self._channel)

    async def _forget_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(grpc.RpcError):
                await channel.close()


def _short(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
