"""Client of one verifier server, and the request, progress stream and checked reply that every caller uses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio

from rlserve.actors.verifier.bounds import within
from rlserve.errors import DeadlineExceeded, InvalidRequest, Unavailable
from rlserve.records import Verdict
from rlserve.rpc import codec
from rlserve.rpc.channel import call, open_channel
from rlserve.rpc.codec.check import wire_text
from rlserve.rpc.tls import TlsFiles
from rlserve.v1 import verifier_service_pb2 as pb
from rlserve.v1 import verifier_service_pb2_grpc as pb_grpc

CALL_SECONDS = 86400.0
"""gRPC deadline of a call whose progress is watched: the watch ends it much earlier, this is the last resort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierDescription:
    """One verifier that a server offers."""

    name: str
    version: str
    description: str
    reward_range: tuple[float, float]
    limit_seconds: float
    isolation: str
    """Isolation tier of untrusted code; empty when none runs."""


class VerifierClient:
    """The verifier server at one address. Use it as an async context manager, or close it.

    Every method raises the server's own errors, Unavailable when it cannot be reached, and DeadlineExceeded.
    """

    def __init__(self, address: str, *, tls: TlsFiles | None = None) -> None:
        self.address = address
        self._channel: grpc.aio.Channel = open_channel(address, tls=tls)
        self._stub = pb_grpc.VerifierServiceStub(self._channel)

    async def __aenter__(self) -> "VerifierClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def describe(self, *, deadline_seconds: float = 5.0) -> list[VerifierDescription]:
        """The verifiers that the server offers."""
        response = await call(
            self._stub.Describe, pb.DescribeVerifiersRequest(), deadline_seconds=deadline_seconds, what=self._what
        )
        return [
            VerifierDescription(
                name=spec.name,
                version=spec.version,
                description=spec.description,
                reward_range=(spec.reward_min, spec.reward_max),
                limit_seconds=spec.limit_seconds,
                isolation=spec.isolation,
            )
            for spec in response.verifiers
        ]

    async def verify(
        self,
        verifier: str,
        completions: Sequence[str],
        payload: bytes,
        prompt: str = "",
        *,
        deadline_seconds: float = 60.0,
    ) -> list[Verdict]:
        """One verdict per completion of a task, in order; the deadline restarts whenever the queue moves."""
        request = verify_request(verifier, completions, payload, prompt)
        silence = f"{self._what}: no progress within {deadline_seconds:g} s"
        async with renewed_deadline(deadline_seconds, lambda: silence) as renew:
            result = await call(
                until_result(self._stub, renew),
                request,
                deadline_seconds=CALL_SECONDS,
                what=self._what,
                wait_for_ready=True,
            )
        return verdicts_of(result, num_completions=len(completions), verifier=verifier)

    @property
    def _what(self) -> str:
        return f"verifier at {self.address}"


def verify_request(verifier: str, completions: Sequence[str], payload: bytes, prompt: str) -> pb.VerifyRequest:
    """The message. Lone surrogates in a completion are kept: sampled bytes need not be valid UTF-8."""
    return pb.VerifyRequest(
        verifier=verifier,
        payload=payload,
        completions=[text.encode("utf-8", "surrogatepass") for text in completions],
        prompt=wire_text(prompt),
    )


@asynccontextmanager
async def renewed_deadline(seconds: float, silence: Callable[[], str]) -> AsyncIterator[Callable[[], None]]:
    """A deadline for the block, which restarts whenever the block calls the yielded function.

    Raises DeadlineExceeded with the text of ``silence()`` after ``seconds`` without such a call.
    """
    try:
        async with asyncio.timeout(seconds) as deadline:
            loop = asyncio.get_running_loop()
            yield lambda: deadline.reschedule(loop.time() + seconds)
    except TimeoutError as error:
        if isinstance(error, DeadlineExceeded):  # raised by the block itself, and more specific
            raise
        raise DeadlineExceeded(silence()) from None


def until_result(stub: pb_grpc.VerifierServiceStub, moved: Callable[[], None]) -> Callable[..., Any]:
    """``stub.Verify`` as a unary method that returns the result. Calls ``moved`` at each sign of progress."""

    async def verify(request: pb.VerifyRequest, **options: Any) -> pb.VerifyResult:
        stream: Any = stub.Verify(request, **options)
        # So that the first message counts: the request was accepted.
        judged = -1
        try:
            response: pb.VerifyResponse
            async for response in stream:
                if response.WhichOneof("frame") == "result":
                    return response.result
                if response.progress.judged != judged:
                    judged = response.progress.judged
                    moved()
        finally:
            # Also when this side gave up: the server then frees its processes.
            stream.cancel()
        raise Unavailable("the verifier's stream ended without a result")

    return verify


def verdicts_of(result: pb.VerifyResult, *, num_completions: int, verifier: str) -> list[Verdict]:
    """The checked verdicts; a reward outside the declared range becomes NO_VERDICT.

    Raises InvalidRequest for a malformed reply.
    """
    if len(result.verdicts) != num_completions:
        counts = f"{len(result.verdicts)} for {num_completions} completions"
        raise InvalidRequest(f"verdicts: are {counts}; the server is not an rlserve verifier")
    found = [codec.verdict_from_proto(verdict, f"verdicts[{i}]") for i, verdict in enumerate(result.verdicts)]
    return [within(verdict, (result.reward_min, result.reward_max), verifier) for verdict in found]
