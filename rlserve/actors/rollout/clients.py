"""Clients of environment and verifier servers: the task of a lease, and the verdicts of its completions.

``TaskClient``          waits for: a server of the environment and its answer.
                        unblocked by: the answer, or ``deadline_seconds``.
``VerifierPoolClient``  waits for: a server of the verifier, a place in its queue, the verdicts.
                        unblocked by: the server, another one in its place, or ``deadline_seconds`` in which no
                        server judged anything.
"""

import asyncio
from collections.abc import Sequence

from rlserve.actors.discovery.pool import EndpointPool
from rlserve.actors.rollout import stages
from rlserve.actors.verifier.client import CALL_SECONDS, renewed_deadline, until_result, verdicts_of, verify_request
from rlserve.errors import InvalidRequest, LimitExceeded, PluginFailed, RlserveError, TaskRefused
from rlserve.records import Failure, FailureKind, Lease, Task, Verdict
from rlserve.rpc import codec
from rlserve.v1 import environment_service_pb2 as environment_pb
from rlserve.v1 import environment_service_pb2_grpc as environment_grpc
from rlserve.v1 import verifier_service_pb2 as verifier_pb
from rlserve.v1 import verifier_service_pb2_grpc as verifier_grpc

QUEUE_SECONDS = 0.5
"""Pause before a full server is asked again: short beside any queue, long beside the call."""


class TaskClient:
    """Tasks of leases, from whichever environment server is alive.

    A task follows from (environment, split, index, seed) alone, so any server and any retry gives the same one.
    """

    def __init__(
        self, pool: EndpointPool, *, seed: int, deadline_seconds: float, vocab_size: int | None = None
    ) -> None:
        """``vocab_size``: token ids of a task's prompt must lie below it."""
        self._vocab_size = vocab_size
        self._pool = pool
        self._seed = seed
        self._deadline_seconds = deadline_seconds

    async def __call__(self, lease: Lease) -> Task:
        """The task of ``lease``.

        Raises Unavailable or DeadlineExceeded when no server answers, PluginFailed when the environment broke, and
        TaskRefused for a malformed task.
        """
        request = environment_pb.GetTasksRequest(
            environment=lease.environment,
            split=lease.split,
            first_index=lease.index,
            count=1,
            seed=self._seed,
        )
        response = await self._pool.call(
            lambda channel: environment_grpc.EnvironmentServiceStub(channel).GetTasks,
            request,
            serves=lease.environment,
            deadline_seconds=self._deadline_seconds,
        )
        if len(response.tasks) != 1:
            raise PluginFailed(
                f"environment {lease.environment!r}: gave {len(response.tasks)} tasks where 1 was asked for"
            )
        try:
            task = codec.task_from_proto(response.tasks[0], "task", vocab_size=self._vocab_size)
        except InvalidRequest as error:
            raise _refused(lease, str(error)) from None
        # The learner would reject the group of another task than its lease's; here the reason can name the environment.
        if (task.environment, task.split) != (lease.environment, lease.split):
            raise _refused(lease, f"task.environment: is {task.environment!r}, split {task.split!r}")
        if task.index != lease.index:
            raise _refused(lease, f"task.index: is {task.index}")
        return task


def _refused(lease: Lease, problem: str) -> TaskRefused:
    return TaskRefused(
        f"environment {lease.environment!r}: its task at {lease.split}/{lease.index} is malformed: {problem}",
        field="task",
        reason="task_invalid",
    )


class VerifierPoolClient:
    """Verdicts of one task's completions, from whichever server of the pool is alive. Example::

        verify = VerifierPoolClient(pool, deadline_seconds=60)
        verdicts = await verify(task, "1+1=", ["2", "3"])

    Trouble of the servers becomes a "no verdict" with its cause, never a reward and never an error.
    """

    def __init__(self, pool: EndpointPool, *, deadline_seconds: float) -> None:
        """``deadline_seconds`` limits the time without any progress of the servers, not the total time."""
        self._pool = pool
        self._deadline_seconds = deadline_seconds

    async def __call__(self, task: Task, prompt: str, completions: Sequence[str]) -> Sequence[Verdict]:
        """One verdict per completion, in order. ``prompt`` is the text before them, as the chat template wrote it."""
        request = verify_request(task.verifier, completions, task.payload, prompt)
        try:
            result = await self._ask(task.verifier, request)
            return verdicts_of(result, num_completions=len(completions), verifier=task.verifier)
        # Every server would refuse it: a retry makes no sense.
        except InvalidRequest as error:
            failure = self._failure(task, FailureKind.INVALID, error, retriable=False)
        except RlserveError as error:
            failure = self._failure(task, FailureKind.UNAVAILABLE, error, retriable=True)
        return [Verdict.none(failure) for _ in completions]

    async def _ask(self, verifier: str, request: verifier_pb.VerifyRequest) -> verifier_pb.VerifyResult:
        async with renewed_deadline(self._deadline_seconds, lambda: self._silence(verifier)) as renew:

            def moved() -> None:
                renew()
                stages.moved()

            while True:
                try:
                    result: verifier_pb.VerifyResult = await self._pool.call(
                        lambda channel: until_result(verifier_grpc.VerifierServiceStub(channel), moved),
                        request,
                        serves=verifier,
                        deadline_seconds=CALL_SECONDS,
                    )
                    return result
                except LimitExceeded:
                    # A full queue is a reason to wait, not to lose what was sampled.
                    moved()
                    await asyncio.sleep(QUEUE_SECONDS)

    def _silence(self, verifier: str) -> str:
        able = [e.actor.actor_id for e in self._pool.endpoints if verifier in e.actor.serves]
        seconds = f"{self._deadline_seconds:g} s (rollout.verify_seconds)"
        if able:
            return f"verifier {verifier!r}: {', '.join(able)} judged nothing within {seconds}"
        served = sorted({name for e in self._pool.endpoints for name in e.actor.serves})
        names = ", ".join(served) or "none"
        return f"verifier {verifier!r}: no server has offered it for {seconds}; served are {names}"

    def _failure(self, task: Task, kind: FailureKind, error: RlserveError, *, retriable: bool) -> Failure:
        message = f"{type(error).__name__}: {error}"
        return Failure(source=f"verifier:{task.verifier}", kind=kind, message=message, retriable=retriable)
