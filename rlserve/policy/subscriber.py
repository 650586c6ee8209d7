"""Obtains published versions: announced, fetched, checked, staged as a flat file on this host.

``versions``  waits for: the learner's announcement. unblocked by: each publish. A broken stream is opened again
              for as long as the caller iterates; the caller decides when to give up.
``fetch``     waits for: chunks. Every chunk has a deadline whose end names the learner.

The way of a version: the publisher's own file when it can be opened here; else a delta to the version that is held;
else (or when what came does not have the published digests) a full copy.
"""

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from rlserve.errors import DeadlineExceeded, InvalidRequest, RlserveError, WeightsMismatch
from rlserve.policy import delta
from rlserve.policy.host import host_id
from rlserve.policy.manifest import Bytes, check, tensor_digest
from rlserve.policy.weight_files import WeightFiles, mapped
from rlserve.records import PolicyVersion
from rlserve.rpc import codec
from rlserve.rpc.channel import call, rpc_errors
from rlserve.rpc.codec.bounds import check_bounds
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
    """Copies thrown away because their digests did not match, and offered files that could not be used."""


class Subscriber:
    """One worker's view of the policy stream."""

    def __init__(
        self,
        connect: Connect,
        *,
        worker_id: str,
        staging: Path,
        fallback: Path | None = None,
        chunk_seconds: float = 30.0,
        use_shared_memory: bool = True,
    ) -> None:
        """``staging`` and ``fallback``: where copies that come over the stream lie, see :class:`WeightFiles`."""
        self._connect = connect
        self._worker_id = worker_id
        self._files = WeightFiles(staging, fallback=fallback)
        self._chunk_seconds = chunk_seconds
        self._host_id = host_id() if use_shared_memory else ""
        self._channel: grpc.aio.Channel | None = None
        self._held: tuple[int, Bytes] | None = None
        self._own_files: list[Path] = []
        self.counts = FetchCounts()

    async def versions(self) -> AsyncGenerator[PolicyVersion, None]:
        """The present version, then each newer one; a slow caller misses those in between."""
        while True:
            try:
                stub = await self._stub()
                async for response in stub.Announce(pb.AnnounceRequest(worker_id=self._worker_id)):
                    check_bounds(response)
                    yield codec.policy_from_proto(response.policy)
            except (grpc.aio.AioRpcError, RlserveError) as error:
                logger.warning("policy stream broke (%s); opening it again", _short(error))
            await self._forget_channel()
            await asyncio.sleep(RETRY_SECONDS)

    async def fetch(self, policy: PolicyVersion, *, held: int | None, by_stream: bool = False) -> Path:
        """A flat file with exactly the bytes of ``policy``.

        ``held``: version that the caller serves and may be sent a delta from; None asks for a full copy.
        ``by_stream``: the publisher's own file is of no use to the caller, send the bytes.
        Raises WeightsMismatch when also the full copy is wrong, UnknownName when the version is gone already,
        Unavailable or DeadlineExceeded when the learner does not answer, LimitExceeded when a copy fits nowhere.
        """
        base = self._held if held is not None and self._held and self._held[0] == held else None
        ways = [(base, False)] if self._host_id and not by_stream else []
        ways += [(base, True)] if base else []
        for base, stream in [*ways, (None, True)]:
            try:
                return await self._fetch_once(policy, base, by_stream=stream)
            except WeightsMismatch as error:
                self.counts.refused += 1
                if stream and base is None:
                    raise
                logger.warning("%s; asking for %s", error, "a copy over the stream" if not stream else "a full copy")
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
        self._files.close()
        self._own_files.clear()
        self._held = None

    async def _fetch_once(self, policy: PolicyVersion, base: tuple[int, Bytes] | None, *, by_stream: bool) -> Path:
        stub = await self._stub()
        request = pb.FetchRequest(
            worker_id=self._worker_id,
            version=policy.version,
            held_version=base[0] if base else None,
            host_id=self._host_id,
            by_stream=by_stream,
        )
        with rpc_errors(f"learner (weights of version {policy.version})"):
            stream = stub.Fetch(request)
            try:
                header = (await self._next(stream, policy)).header
                if header.shared_path and not by_stream:
                    _check_shared(policy, header.shared_path)
                    self.counts.shared += 1
                    return Path(header.shared_path)
                content = await self._receive(stream, header, policy)
            finally:
                stream.cancel()
        return await asyncio.to_thread(self._stage, policy, header, content, base)

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
        path, file = self._files.write(policy.version, [flat.data], size_bytes=policy.total_bytes)
        self._held = (policy.version, mapped(file))
        self._own_files.append(path)
        for old in self._own_files[:-2]:
            self._files.remove(old)
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


def _check_shared(policy: PolicyVersion, path: str) -> None:
    """Raises WeightsMismatch unless the publisher's file can be opened from here and has its size.

    The engine checks each tensor's digest when it stages the file; a second pass here would only cost.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise WeightsMismatch(f"version {policy.version}: the learner's file cannot be opened here ({error})") from None
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size != policy.total_bytes:
        raise WeightsMismatch(
            f"version {policy.version}: the learner's file {path} is not whole ({found.st_size} of "
            f"{policy.total_bytes} bytes)"
        )


def _short(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
