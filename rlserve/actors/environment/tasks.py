"""Makes tasks, each environment in a thread of its own, so that one that hangs delays no other.

``make``  waits for: the environment's thread. unblocked by: its answer, or the caller's deadline; then the thread is
          abandoned, and the next call starts another.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Mapping

from rlserve.actors.environment.blame import Blame
from rlserve.actors.environment.episode_thread import EpisodeThread
from rlserve.errors import DeadlineExceeded, LimitExceeded, NotReady, PluginFailed, UnknownName
from rlserve.plugins import Environment
from rlserve.records import Task
from rlserve.rpc import codec
from rlserve.rpc.options import MESSAGE_BYTES
from rlserve.v1 import task_pb2

MAX_STUCK = 16
"""Hanging threads per environment before its calls are refused; any value will do that bounds memory."""
MAX_TASK_BYTES = MESSAGE_BYTES // 2
"""A task is sent again inside of a group and of an episode's first message, with other fields around it."""

Finish = Callable[[Task], Task]


class TaskMaker:
    """All tasks of one environment server. Use from one event loop."""

    def __init__(self, blames: Mapping[str, Blame], *, finish: Finish) -> None:
        """``finish`` fills in the server's defaults in a plug-in's task."""
        self._blames = blames
        self._finish = finish
        self._threads: dict[str, EpisodeThread] = {}
        self._stuck: Counter[str] = Counter()

    async def make(
        self, environment: Environment, split: str, indices: range, seed: int, *, seconds: float | None
    ) -> list[task_pb2.Task]:
        """Tasks at ``indices``, as messages that can be sent.

        Raises UnknownName for a split, PluginFailed if the environment raises or returns something else than a
        task, DeadlineExceeded if it does not answer within ``seconds`` (None: no limit).
        """
        name = environment.name
        thread = self._thread(name)
        try:
            async with asyncio.timeout(seconds):
                return await thread.call(lambda: self._made(environment, split, indices, seed))
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):  # the plug-in's own
                raise
            self._leave(name, thread)
            raise DeadlineExceeded(
                f"{self._blames[name].what}: did not give task {split}/{indices.start} within {seconds or 0:.1f} s; "
                f"it is at {self._blames[name].location(thread.frame)}"
            ) from None

    def task(self, environment: Environment, split: str, index: int, seed: int) -> Task:
        """One task; blocks. Raises the errors of ``make``."""
        blame = self._blames[environment.name]
        task: object = blame.run(lambda: environment.task(split, index, seed))
        if not isinstance(task, Task):
            raise PluginFailed(f"{blame.what}: task() returned {type(task).__name__}; return rlserve.records.Task")
        return self._finish(task)

    def _made(self, environment: Environment, split: str, indices: range, seed: int) -> list[task_pb2.Task]:
        blame = self._blames[environment.name]
        splits = blame.run(lambda: dict(environment.splits))
        if split not in splits:
            known = ", ".join(map(str, splits)) or "none"
            raise UnknownName(f"split: {split!r} is not one of {environment.name!r} (known: {known})")
        messages: list[task_pb2.Task] = []
        total = 0
        for index in indices:
            task = self.task(environment, split, index, seed)
            message = blame.run(functools.partial(_checked, task))
            size = message.ByteSize()
            if size > MAX_TASK_BYTES:
                raise PluginFailed(
                    f"{blame.what}: its task {split}/{index} has {size} bytes; at most {MAX_TASK_BYTES} can be sent"
                )
            total += size
            # 1 MiB below the limit of a message, for the fields around the tasks.
            if total > MESSAGE_BYTES - 2**20:
                raise LimitExceeded(f"count: {len(messages) + 1} tasks have {total} bytes together; request fewer")
            messages.append(message)
        return messages

    def _thread(self, name: str) -> EpisodeThread:
        if self._stuck[name] >= MAX_STUCK:
            raise NotReady(f"{self._blames[name].what}: {MAX_STUCK} of its calls hang; restart its server")
        if name not in self._threads:
            self._threads[name] = EpisodeThread(f"{self._blames[name].what}", on_end=lambda: self._returned(name))
        return self._threads[name]

    def _leave(self, name: str, thread: EpisodeThread) -> None:
        """Abandon a hanging thread; if its call ever returns, it ends."""
        # Several callers may wait for one thread: the first to give up abandons it for all.
        if self._threads.get(name) is thread:
            del self._threads[name]
            self._stuck[name] += 1
            # Queued behind the hanging call, so that _returned runs if that ever comes back.
            thread.end()

    def _returned(self, name: str) -> None:
        self._stuck[name] -= 1


def _checked(task: Task) -> task_pb2.Task:
    """The task as a message, decoded once here so that a faulty one is the plug-in's error."""
    message = codec.task_to_proto(task)
    codec.task_from_proto(message, "task")
    return message
