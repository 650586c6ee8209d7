"""A client of one verifier server."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from rlserve.actors.verifier.client import CALL_SECONDS, renewed_deadline, until_result, verdicts_of, verify_request
from rlserve.records import Verdict
from rlserve.rpc.channel import call, open_channel
from rlserve.rpc.tls import TlsFiles
from rlserve.v1 import verifier_service_pb2 as pb
from rlserve.v1 import verifier_service_pb2_grpc as pb_grpc


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
