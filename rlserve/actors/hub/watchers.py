"""Delivers every change of the registry to each watcher, in order, without waiting for slow ones."""

import asyncio
from collections.abc import AsyncIterator

from rlserve.actors.hub.registry import Registry
from rlserve.errors import LimitExceeded
from rlserve.records import ActorEvent, ActorKind

MAX_PENDING = 10_000
"""Unread changes per watcher: more than two full turnovers of the largest registry (4096 actors)."""

_Queue = asyncio.Queue[ActorEvent | None]


class Watchers:
    """One queue per watcher, filled by the registry, drained by the watcher's stream.

    ``events`` waits for: the next change. unblocked by: the registry or :meth:`close`.
    """

    def __init__(self, registry: Registry) -> None:
        self._queues: dict[_Queue, ActorKind | None] = {}
        self._overrun: set[_Queue] = set()
        self._closed = False
        registry.listen(self._put)

    def subscribe(self, kind: ActorKind | None) -> "Watch":
        """Changes of a kind (None: all) from now on."""
        return Watch(self, kind)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for queue in self._queues:
            self._end(queue)

    def add(self, kind: ActorKind | None) -> _Queue:
        """A new queue; end it with :meth:`remove`."""
        queue: _Queue = asyncio.Queue()
        self._queues[queue] = kind
        # A call that arrives during the stop must end, too.
        if self._closed:
            self._end(queue)
        return queue

    def remove(self, queue: _Queue) -> None:
        """Forget a queue."""
        self._queues.pop(queue, None)
        self._overrun.discard(queue)

    def is_overrun(self, queue: _Queue) -> bool:
        """True if its reader was too slow and lost changes."""
        return queue in self._overrun

    def _put(self, event: ActorEvent) -> None:
        for queue, kind in self._queues.items():
            if kind is not None and event.actor.kind is not kind:
                continue
            if queue.qsize() >= MAX_PENDING:
                self._overrun.add(queue)
                self._end(queue)
            # Nothing may follow the end mark: the reader watches again and gets the whole list.
            elif queue not in self._overrun:
                queue.put_nowait(event)

    def _end(self, queue: _Queue) -> None:
        # Unread changes are of no use: after a gap the reader lists the registry again, and at a stop it leaves.
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


class Watch:
    """One watcher's changes; a context manager that removes its queue when the stream ends."""

    def __init__(self, watchers: Watchers, kind: ActorKind | None) -> None:
        self._watchers = watchers
        self._queue = watchers.add(kind)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._watchers.remove(self._queue)

    async def events(self) -> AsyncIterator[ActorEvent]:
        """Changes until the hub stops. Raises LimitExceeded if the reader fell too far behind."""
        while (event := await self._queue.get()) is not None:
            yield event
        if self._watchers.is_overrun(self._queue):
            raise LimitExceeded(f"watch: more than {MAX_PENDING} changes are unread; watch again")
