"""VerifierService: checks sizes, bounds the queue, calls the pool.

``Verify`` waits for: the pool's verdicts. unblocked by: the pool, whose limits end every job; cancellation.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from rlserve.actors.verifier.pool import VerifierPool
from rlserve.actors.verifier.spec import VerifierSpec, effective_limit_seconds
from rlserve.errors import InvalidRequest, LimitExceeded
from rlserve.rpc import codec
from rlserve.v1 import verifier_service_pb2 as pb
from rlserve.v1 import verifier_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name
MAX_COMPLETIONS = 1024
"""Completions per request: above any group size, and it bounds the reply."""
PROGRESS_SECONDS = 1.0
"""Between two progress messages: far below the deadlines that they extend (60 s and more)."""


class VerifierService(pb_grpc.VerifierServiceServicer):
    """gRPC servicer of one pool.

    A request that would exceed ``max_queue`` gets RESOURCE_EXHAUSTED immediately, so that the caller can try another
    server; accepted requests are always finished. Cancelling a call frees its processes.
    """

    def __init__(self, pool: VerifierPool, *, limit_seconds: float, max_queue: int, max_completion_bytes: int) -> None:
        self._pool = pool
        self._limit_seconds = limit_seconds
        self._max_queue = max_queue
        self._max_completion_bytes = max_completion_bytes
        self._queued = 0

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add this servicer to a server."""
        pb_grpc.add_VerifierServiceServicer_to_server(self, server)

    @property
    def num_queued(self) -> int:
        """Completions waiting or being verified."""
        return self._queued

    async def Describe(self, request: pb.DescribeVerifiersRequest, context: Context) -> pb.DescribeVerifiersResponse:
        served = [spec for spec in self._pool.specs.values() if not spec.error]
        return pb.DescribeVerifiersResponse(verifiers=[self._wire_spec(spec) for spec in served])

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> AsyncIterator[pb.VerifyResponse]:
        completions = self._checked(request)
        if self._queued + len(completions) > self._max_queue:
            raise LimitExceeded(
                f"verifier queue: {self._queued} completions wait and {len(completions)} would exceed its"
                f" {self._max_queue}; ask another server or try again"
            )
        self._queued += len(completions)
        judging = asyncio.ensure_future(
            self._pool.verify_all(request.verifier, completions, request.payload, request.prompt)
        )
        try:
            # asyncio.wait leaves the task running at the timeout, where wait_for would cancel it.
            while not (await asyncio.wait({judging}, timeout=PROGRESS_SECONDS))[0]:
                yield pb.VerifyResponse(progress=pb.VerifyProgress(judged=self._pool.num_judged))
            verdicts = [codec.verdict_to_proto(verdict) for verdict in judging.result()]
        finally:
            self._queued -= len(completions)
            judging.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await judging  # its processes are killed when this returns
        low, high = self._pool.specs[request.verifier].reward_range
        yield pb.VerifyResponse(result=pb.VerifyResult(verdicts=verdicts, reward_min=low, reward_max=high))

    def _checked(self, request: pb.VerifyRequest) -> list[str]:
        """The completions as text. Raises InvalidRequest for missing, oversized or non-UTF-8 fields."""
        if not request.verifier:
            raise InvalidRequest("verifier: is empty; name a verifier", reason="missing")
        if len(request.completions) > MAX_COMPLETIONS:
            count = len(request.completions)
            raise InvalidRequest(f"completions: are {count}; send at most {MAX_COMPLETIONS}", reason="too_many")
        # Not LimitExceeded, which asks for another attempt: this request would never fit.
        if len(request.completions) > self._max_queue:
            count = len(request.completions)
            raise InvalidRequest(
                f"completions: are {count}; at most {self._max_queue} are taken here (verifier.max_queue)",
                reason="too_many",
            )
        self._check_size("payload", len(request.payload))
        self._check_size("prompt", len(request.prompt))
        texts: list[str] = []
        for index, completion in enumerate(request.completions):
            self._check_size(f"completions[{index}]", len(completion))
            try:
                texts.append(completion.decode("utf-8", "surrogatepass"))
            except UnicodeDecodeError:
                raise InvalidRequest(f"completions[{index}]: is not UTF-8; send text as UTF-8") from None
        return texts

    def _check_size(self, field: str, size: int) -> None:
        if size > self._max_completion_bytes:
            limit = self._max_completion_bytes
            raise InvalidRequest(f"{field}: is {size} bytes; send at most {limit}", field=field, reason="too_large")

    def _wire_spec(self, spec: VerifierSpec) -> pb.VerifierSpec:
        return pb.VerifierSpec(
            name=spec.name,
            version=spec.version,
            description=spec.description,
            reward_min=spec.reward_range[0],
            reward_max=spec.reward_range[1],
            limit_seconds=effective_limit_seconds(spec, self._limit_seconds),
            isolation=spec.isolation,
        )
