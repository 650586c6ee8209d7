"""Obtains published versions: announced, fetched through a carrier, staged as a flat file on this host.

``versions``  waits for: the learner's announcement. unblocked by: each publish. A broken stream is opened again
              as long as the caller iterates; the caller decides when to give up.
``fetch``     waits for: chunks. Each has a deadline; the error at its end names the learner. And, before, for a worker
              of this host that fetches the version already, as long as chunks come to that one.

Which carrier brings a version: the learner takes the first one that can serve this worker. When the worker refuses
what came, it asks for the carriers after that one; the last of them brings a full copy and checks every digest.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, RlserveError, WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.rpc import codec
from rlserve.rpc.channel import call, rpc_errors
from rlserve.rpc.codec.bounds import check_bounds
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync.carriers import CARRIERS, Carrier
from rlserve.weight_sync.carriers.base import Interrupted, NextChunk
from rlserve.weight_sync.carriers.host_copies import HostCopies, Turn
from rlserve.weight_sync.device_memory import DeviceMemory
from rlserve.weight_sync.staging import Staging

logger = logging.getLogger(__name__)

HOST_COPY = "host_copy"
"""Counted like a carrier: the version was taken from another worker of this host."""
RETRY_SECONDS = 0.25
"""Pause before a broken stream is opened again; short against a restart of the learner."""
Connect = Callable[[], Awaitable[grpc.aio.Channel]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A worker's report after a swap."""

    version: int
    digest: str
    """Of the weights that the engine serves."""
    stall_seconds: float
    """Generation was held for this long."""
    update_seconds: float
    """From the announcement to the end of the swap."""
    running_sequences: int
    """Sequences in flight during the swap."""


@dataclass(slots=True)
class FetchCounts:
    """How versions came."""

    taken: Counter[str] = field(default_factory=Counter)
    """Versions by the carrier that brought them."""
    last: str = ""
    """Carrier that brought the last version."""
    refused: int = 0
    """Attempts whose bytes or files could not be used."""


class Subscriber:
    """One worker's view of the policy stream.

    For example::

        subscriber = Subscriber(connect, worker_id="rollout-0", staging=Path("/dev/shm"))
        async for policy in subscriber.versions():               # 0, then 1, 2, ...
            path = await subscriber.fetch(policy, held=None)     # a flat file with exactly these bytes
            ...                                                  # the engine stages and swaps it
            await subscriber.confirm(Confirmation(...))
        await subscriber.close()
    """

    def __init__(
        self,
        connect: Connect,
        *,
        worker_id: str,
        staging: Path,
        fallback: Path | None = None,
        chunk_seconds: float = 30.0,
        carriers: Sequence[Carrier] = CARRIERS,
    ) -> None:
        """``staging`` and ``fallback``: directories of the worker's own copies, see :class:`WeightFiles`.

        Workers with the same ``staging`` directory fetch each version once, see :class:`HostCopies`.
        """
        self._connect = connect
        self._worker_id = worker_id
        self._staging = Staging(staging, fallback=fallback)
        self._copies = HostCopies(staging, patience=chunk_seconds)
        self._chunk_seconds = chunk_seconds
        self._receivers = {carrier.name: carrier.receiver(self._staging) for carrier in carriers}
        self._channel: grpc.aio.Channel | None = None
        self.counts = FetchCounts()

    async def versions(self) -> AsyncGenerator[PolicyVersion, None]:
        """The current version, then each newer one; a slow caller skips to the newest."""
        while True:
            try:
                stub = await self._stub()
                async for response in stub.Announce(pb.AnnounceRequest(worker_id=self._worker_id)):
                    check_bounds(response)
                    yield codec.policy_from_proto(response.policy)
            except (grpc.aio.AioRpcError, RlserveError) as error:
                logger.warning("policy stream broke (%s); opening it again", _short(error))
            # The next attempt asks the hub again: a restarted learner may have another address.
            await self._forget_channel()
            await asyncio.sleep(RETRY_SECONDS)

    async def fetch(self, policy: PolicyVersion, *, held: int | None, last_resort: bool = False) -> Path:
        """A flat file with exactly the bytes of ``policy``.

        ``held``: the version that the caller serves, a possible base of a delta; None asks for a full copy.
        ``last_resort``: use the last carrier only, after the engine refused the bytes of another one.
        Raises WeightsMismatch when the last carrier's bytes are wrong too, UnknownName when the learner no longer keeps
        the version, Unavailable or DeadlineExceeded when it does not answer, LimitExceeded when no place has room.
        """
        names = list(self._receivers)
        if last_resort:
            return await self._fetch(policy, held, names[-1:])
        async with self._copies.turn(policy.digest) as turn:
            if turn.copy is not None:
                try:
                    path = self._staging.take(policy, turn.copy)
                except (OSError, LimitExceeded) as error:
                    logger.info("version %d: the copy of another worker cannot be taken (%s)", policy.version, error)
                else:
                    self._count(HOST_COPY)
                    return path
            path = await self._fetch(policy, held, names, turn)
            # What the learner's own file holds, the others find there too.
            if self._staging.owns(path):
                turn.offer(path)
            return path

    async def _fetch(
        self, policy: PolicyVersion, held: int | None, names: Sequence[str], turn: Turn | None = None
    ) -> Path:
        """By the first of these carriers that works."""
        interrupted = False
        while True:
            async with self._opened(policy, held, names, turn) as (header, next_chunk):
                try:
                    path = await self._receivers[header.carrier].take(policy, header, next_chunk)
                except WeightsMismatch as error:
                    self.counts.refused += 1
                    again = isinstance(error, Interrupted) and not interrupted
                    names = names[names.index(header.carrier) + (0 if again else 1) :]
                    interrupted = interrupted or again
                    if not names:
                        raise
                    logger.warning("%s; asking for %s", error, " or ".join(names))
                else:
                    self._count(header.carrier)
                    return path

    def _count(self, carrier: str) -> None:
        self.counts.taken[carrier] += 1
        self.counts.last = carrier

    def take_memory_of(self, device: str) -> None:
        """The engine takes weights from this device's memory, see ``device_name``; empty: from files alone."""
        self._staging.device = device

    def memory_of(self, path: Path) -> DeviceMemory | None:
        """Memory that holds the bytes of a file that ``fetch`` returned, if a carrier brought it."""
        return self._staging.memory_of(path)

    async def confirm(self, confirmation: Confirmation) -> None:
        """Report the served weights to the learner. Raises WeightsMismatch when it published other ones."""
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
        """Close the channel and remove the staged files."""
        await self._forget_channel()
        self._copies.close()
        self._staging.close()

    @contextlib.asynccontextmanager
    async def _opened(
        self, policy: PolicyVersion, held: int | None, names: Sequence[str], turn: Turn | None
    ) -> AsyncIterator[tuple[pb.FetchHeader, NextChunk]]:
        """One attempt with these carriers: the header, and how to read the chunks that follow."""
        stub = await self._stub()
        request = pb.FetchRequest(worker_id=self._worker_id, version=policy.version)
        # Every receiver writes its fields: one request serves whichever carrier the learner takes.
        for name in names:
            self._receivers[name].ask(request, held)
        with rpc_errors(f"learner (weights of version {policy.version})"):
            stream = stub.Fetch(request)

            async def next_chunk() -> pb.Chunk:
                chunk = (await self._next(stream, policy)).chunk
                if turn is not None:
                    turn.progress()
                return chunk

            try:
                header = (await self._next(stream, policy)).header
                if header.carrier not in names:
                    raise InvalidRequest(
                        f"carrier: the learner offers {header.carrier[:40]!r}; this worker takes {', '.join(names)}"
                    )
                yield header, next_chunk
            finally:
                stream.cancel()

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

    async def _stub(self) -> Any:
        if self._channel is None:
            self._channel = await self._connect()
        return pb_grpc.PolicyStreamServiceStub(self._channel)

    async def _forget_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            # The channel is given up: an error of its end changes nothing.
            with contextlib.suppress(grpc.RpcError):
                await channel.close()


def _short(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
