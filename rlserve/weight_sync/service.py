"""PolicyStreamService: announces versions, sends their bytes, records which version each worker serves.

``Announce``  waits for: a version newer than the last one sent. unblocked by: ``Publisher.publish``. A slow
              reader skips versions and sees the newest.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.rpc import codec
from rlserve.rpc.codec.check import fault, finite, integer, optional_text, text
from rlserve.rpc.codec.policy import digest
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync.carriers import CARRIERS, Carrier, first_offer
from rlserve.weight_sync.publisher import Publisher

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["PolicyStreamService"].full_name
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 2**16, 3 * 2**20
"""Below, frames cost more than bytes; above, a chunk exceeds gRPC's message limit of 4 MiB."""
MAX_SECONDS = 1e6
"""More than any stall; keeps a wild value out of the metrics."""
MAX_REPORTS = 4096
"""Confirmations kept for one step's metrics: four thousand workers, one version each."""
MAX_WORKERS = 4096
"""Workers whose version is kept; the one that confirmed longest ago is dropped first. A peer that invents ids must
not fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedReport:
    """A worker's confirmation that it serves a version."""

    worker_id: str
    version: int
    stall_seconds: float
    """Generation was held for this long."""
    update_seconds: float
    """From the announcement to the end of the swap."""
    running_sequences: int
    """Sequences in flight during the swap."""
    monotonic_seconds: float


class PolicyService(pb_grpc.PolicyStreamServiceServicer):
    """The gRPC service of a publisher. Create it in the event loop that serves it."""

    def __init__(self, publisher: Publisher, *, chunk_bytes: int, carriers: Sequence[Carrier] = CARRIERS) -> None:
        self._publisher = publisher
        self._senders = {carrier.name: carrier.sender(publisher, chunk_bytes) for carrier in carriers}
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Condition()
        self._reports: deque[ServedReport] = deque(maxlen=MAX_REPORTS)
        self._served: dict[str, int] = {}
        self.num_reports = 0
        """Confirmations since the start."""
        self.on_confirmed: Callable[[], object] = lambda: None
        """Called in the service's event loop when a worker serves another version."""
        # The training thread reads the reports that the event loop adds.
        self._lock = threading.Lock()
        self.num_mismatches = 0
        """Confirmations with a digest other than the published one."""
        # publish runs in the training thread: the condition must be notified in the loop that waits on it.
        publisher.subscribe(lambda _: asyncio.run_coroutine_threadsafe(self._wake(), self._loop))

    def reports(self) -> list[ServedReport]:
        """The last confirmations, in order of arrival."""
        with self._lock:
            return list(self._reports)

    def served(self) -> dict[str, int]:
        """The version that each worker confirmed last."""
        with self._lock:
            return dict(self._served)

    async def Announce(self, request: pb.AnnounceRequest, context: Context) -> AsyncIterator[pb.AnnounceResponse]:
        text(request.worker_id, "", "worker_id")
        sent = -1
        while True:
            policy = await self._newer_than(sent)
            sent = policy.version
            yield pb.AnnounceResponse(policy=codec.policy_to_proto(policy))

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[pb.FetchResponse]:
        _check_fetch(request)
        offer = await first_offer(self._senders, self._publisher.get(request.version), request)
        yield pb.FetchResponse(header=offer.header)
        if offer.chunks is not None:
            async for chunk in offer.chunks:
                yield pb.FetchResponse(chunk=chunk)

    async def Confirm(self, request: pb.ConfirmRequest, context: Context) -> pb.ConfirmResponse:
        text(request.worker_id, "", "worker_id")
        digest(request.digest, "", "digest")
        stall = finite(request.stall_seconds, "", "stall_seconds", low=0, high=MAX_SECONDS)
        update = finite(request.update_seconds, "", "update_seconds", low=0, high=MAX_SECONDS)
        published = self._publisher.get(request.version)
        if request.digest != published.policy.digest:
            self.num_mismatches += 1
            raise WeightsMismatch(
                f"digest: {request.worker_id} serves {request.digest[:40]!r} as version {request.version}, "
                f"published was {published.policy.digest!r}; fetch a full copy"
            )
        report = ServedReport(
            worker_id=request.worker_id,
            version=request.version,
            stall_seconds=stall,
            update_seconds=update,
            running_sequences=request.running_sequences,
            monotonic_seconds=time.monotonic(),
        )
        with self._lock:
            self._reports.append(report)
            self.num_reports += 1
            # Out and in again, so that the first entry is the one confirmed longest ago.
            self._served.pop(request.worker_id, None)
            self._served[request.worker_id] = request.version
            if len(self._served) > MAX_WORKERS:
                del self._served[next(iter(self._served))]
        # Without the lock, so that a callback may read ``served``.
        self.on_confirmed()
        return pb.ConfirmResponse()

    async def _newer_than(self, version: int) -> PolicyVersion:
        async with self._news:
            while True:
                latest = self._publisher.latest()
                if latest is not None and latest.policy.version > version:
                    return latest.policy
                await self._news.wait()

    async def _wake(self) -> None:
        async with self._news:
            self._news.notify_all()


def _check_fetch(request: pb.FetchRequest) -> None:
    """Raises InvalidRequest."""
    text(request.worker_id, "", "worker_id")
    optional_text(request.host_id, "", "host_id")
    integer(request.version, "", "version")
    integer(request.held_version, "", "held_version")
    if request.chunk_bytes and not MIN_CHUNK_BYTES <= request.chunk_bytes <= MAX_CHUNK_BYTES:
        fault("", "chunk_bytes", f"is {request.chunk_bytes}; give {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES}, or 0")
