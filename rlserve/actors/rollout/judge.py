"""Asks verifier servers for verdicts; their trouble is "no verdict", never a reward."""

from collections.abc import Sequence

from rlserve.actors.hub.pool import EndpointPool
from rlserve.errors import RlserveError
from rlserve.records import Failure, FailureKind, Task, Verdict
from rlserve.rpc import codec
from rlserve.rpc.codec.check import wire_text
from rlserve.v1 import verifier_service_pb2 as pb
from rlserve.v1 import verifier_service_pb2_grpc as pb_grpc


class RemoteJudge:
    """Verdicts of one task's completions, from whichever server of the pool is alive."""

    def __init__(self, pool: EndpointPool, *, deadline_seconds: float) -> None:
        self._pool = pool
        self._deadline_seconds = deadline_seconds

    async def __call__(self, task: Task, prompt: str, completions: Sequence[str]) -> Sequence[Verdict]:
        """One verdict a completion, in order. ``prompt`` is what they go on from, as the chat template wrote it."""
        request = pb.VerifyRequest(
            verifier=task.verifier,
            payload=task.payload,
            completions=[text.encode("utf-8", "surrogatepass") for text in completions],
            prompt=wire_text(prompt),
        )
        try:
            response = await self._pool.call(
                lambda channel: pb_grpc.VerifierServiceStub(channel).Verify,
                request,
                serves=task.verifier,
                deadline_seconds=self._deadline_seconds,
            )
            verdicts = [codec.verdict_from_proto(verdict) for verdict in response.verdicts]
            if len(verdicts) == len(completions):
                return verdicts
            message = f"{len(verdicts)} verdicts for {len(completions)} completions"
        except RlserveError as error:
            message = f"{type(error).__name__}: {error}"
        failure = Failure(
            source=f"verifier:{task.verifier}",
            kind=FailureKind.UNAVAILABLE,
            message=message,
            retriable=True,
        )
        return [Verdict.none(failure) for _ in completions]
