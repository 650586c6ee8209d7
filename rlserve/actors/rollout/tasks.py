"""Fetches the task of a lease from whichever environment server is alive."""

from rlserve.actors.hub.pool import EndpointPool
from rlserve.errors import InvalidRequest, PluginFailed, TaskRefused
from rlserve.records import Task
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc


class RemoteTasks:
    """Tasks are pure in (environment, split, index, seed), so any server and any retry gives the same."""

    def __init__(
        self, pool: EndpointPool, *, seed: int, deadline_seconds: float, vocab_size: int | None = None
    ) -> None:
        """Token ids of tasks lie below ``vocab_size``."""
        self._vocab_size = vocab_size
        self._pool = pool
        self._seed = seed
        self._deadline_seconds = deadline_seconds

    async def __call__(self, lease: Lease) -> Task:
        """The task of ``lease``.

        Raises Unavailable or DeadlineExceeded when no server answers, PluginFailed when the environment broke, and
        TaskRefused for a task that cannot be.
        """
        request = pb.GetTasksRequest(
            environment=lease.environment,
            split=lease.split,
            first_index=lease.index,
            count=1,
            seed=self._seed,
        )
        response = await self._pool.call(
            lambda channel: pb_grpc.EnvironmentServiceStub(channel).GetTasks,
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
        if (task.environment, task.split) != (lease.environment, lease.split):
            raise _refused(lease, f"task.environment: is {task.environment!r}, split {task.split!r}")
        if task.index != lease.index:
            raise _refused(lease, f"task.index: is {task.index}")
        return task


def _refused(lease: Lease, problem: str) -> TaskRefused:
    return TaskRefused(
        f"environment {lease.environment!r}: its task at {lease.split}/{lease.index} cannot be: {problem}",
        field="task",
        reason="task_invalid",
    )
