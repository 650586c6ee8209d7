"""Asks verifier servers for verdicts; their trouble is "no verdict", never a reward.

``__call__`` waits for: a server that serves the verifier, a place in its queue, the verdicts. unblocked by: the
server, another one in its place, or ``deadline_seconds`` in which no server judged anything.
"""

import asyncio
from collections.abc import Sequence

from rlserve.actors.hub.pool import EndpointPool
from rlserve.actors.rollout import stages
from rlserve.actors.verifier.client import CALL_SECONDS, renewing, until_result, verdicts_of, verify_request
from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, RlserveError
from rlserve.records import Failure, FailureKind, Task, Verdict
from rlserve.v1 import verifier_service_pb2 as pb
from rlserve.v1 import verifier_service_pb2_grpc as pb_grpc

QUEUE_SECONDS = 0.5
"""Pause before a full server is asked again."""


class RemoteJudge:
    """Verdicts of one task's completions, from whichever server of the pool is alive."""

    def __init__(self, pool: EndpointPool, *, deadline_seconds: float) -> None:
        """``deadline_seconds``: how long the servers may judge nothing at all. How long they take in all is free."""
        self._pool = pool
        self._deadline_seconds = deadline_seconds

    async def __call__(self, task: Task, prompt: str, completions: Sequence[str]) -> Sequence[Verdict]:
        """One verdict a completion, in order. ``prompt`` is what they go on from, as the chat template wrote it."""
        request = verify_request(task.verifier, completions, task.payload, prompt)
        try:
            result = await self._ask(task.verifier, request)
            return verdicts_of(result, num_completions=len(completions), verifier=task.verifier)
        except InvalidRequest as error:
            failure = self._failure(task, FailureKind.INVALID, error, retriable=False)
        except RlserveError as error:
            failure = self._failure(task, FailureKind.UNAVAILABLE, error, retriable=True)
        return [Verdict.none(failure) for _ in completions]

    async def _ask(self, verifier: str, request: pb.VerifyRequest) -> pb.VerifyResult:
        try:
            async with asyncio.timeout(self._deadline_seconds) as patience:
                renew = renewing(patience, self._deadline_seconds)

                def moved() -> None:
                    renew()
                    stages.moved()

                while True:
                    try:
                        result: pb.VerifyResult = await self._pool.call(
                            lambda channel: until_result(pb_grpc.VerifierServiceStub(channel), moved),
                            request,
                            serves=verifier,
                            deadline_seconds=CALL_SECONDS,
                        )
                        return result
                    except LimitExceeded:
                        # A full queue holds this worker's leases back; it is no reason to lose what was sampled.
                        moved()
                        await asyncio.sleep(QUEUE_SECONDS)
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):
                raise
            raise DeadlineExceeded(self._silence(verifier)) from None

    def _silence(self, verifier: str) -> str:
        able = [e.actor.actor_id for e in self._pool.endpoints if verifier in e.actor.serves]
        seconds = f"{self._deadline_seconds:g} s (rollout.verify_seconds)"
        if able:
            return f"verifier {verifier!r}: {', '.join(able)} judged nothing within {seconds}"
        served = sorted({name for e in self._pool.endpoints for name in e.actor.serves})
        return f"verifier {verifier!r}: nobody has served it for {seconds}; served are {', '.join(served) or 'none'}"

    def _failure(self, task: Task, kind: FailureKind, error: RlserveError, *, retriable: bool) -> Failure:
        message = f"{type(error).__name__}: {error}"
        return Failure(source=f"verifier:{task.verifier}", kind=kind, message=message, retriable=retriable)
