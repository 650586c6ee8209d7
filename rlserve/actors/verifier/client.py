"""The request to a verifier server, its progress stream and the checked reply: used by every caller."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from rlserve.actors.verifier.bounds import within
from rlserve.errors import DeadlineExceeded, InvalidRequest, Unavailable
from rlserve.records import Verdict
from rlserve.rpc import codec
from rlserve.rpc.codec.check import wire_text
from rlserve.v1 import verifier_service_pb2 as pb
from rlserve.v1 import verifier_service_pb2_grpc as pb_grpc

CALL_SECONDS = 86400.0
"""gRPC deadline of a call whose progress is watched: the watch ends it much earlier, this is the last resort."""


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
