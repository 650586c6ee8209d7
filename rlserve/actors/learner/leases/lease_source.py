"""Numbers the training leases of a run, with a cursor in the store that survives a crash.

The task of a number is a pure function (:mod:`.mixture`), so the cursor is two numbers and the mixture: every group
below the oldest open number is in the store; of the numbers from there to the next one, those whose group is not in
the store were leased and are leased again.
"""

import json
from collections.abc import Sequence

from rlserve.actors.learner.leases.mixture import MixtureEntry, TaskSource
from rlserve.actors.learner.leases.nonces import Nonces
from rlserve.actors.learner.leases.settings import InboxSettings
from rlserve.errors import StateCorrupt
from rlserve.records.lease import Lease
from rlserve.store.base import Store


class LeaseSource:
    """Draws training leases ``<run_id>/train/<number>``. Not thread-safe.

    Example: 0, 1 and 2 are drawn and saved, 1 is completed, the process dies. The next source has the open leases 0
    and 2, and draws 3.
    """

    def __init__(self, store: Store, settings: InboxSettings) -> None:
        """Resumes from the store's cursor, with the mixture of ``settings`` from the next number on."""
        self._store = store
        self._run_id = settings.run_id
        self._num_samples = settings.num_samples
        self._limit_seconds = settings.lease_seconds
        self._changed = False
        self._next, oldest, self._tasks, self._key = self._load(settings.seed, settings.mixture)
        # Kept, because the cursor is written at every grant and the mixture rarely changes.
        self._encoded = self._tasks.encode()
        self.nonces = Nonces(self._key)
        """Of every lease of the run, those of evaluations too; they outlive this process."""
        numbers = ((number, self._group_id(number)) for number in range(oldest, self._next))
        self._open = {group_id: number for number, group_id in numbers if not store.knows(group_id)}
        # Last: it may save the cursor, which needs the open leases.
        self.mix(settings.mixture)

    @property
    def open_leases(self) -> list[Lease]:
        """Leases that were drawn and not completed, oldest first."""
        return [self._lease(number) for number in self._open.values()]

    @property
    def mixture(self) -> tuple[MixtureEntry, ...]:
        """The mixture of the next new lease."""
        return self._tasks.mixture

    def draw(self) -> Lease:
        """The next new lease. Call :meth:`save` before it leaves the process."""
        lease = self._lease(self._next)
        self._open[lease.group_id] = self._next
        self._next += 1
        self._changed = True
        return lease

    def complete(self, group_id: str) -> None:
        """The store has a row for the group now."""
        # No change to write: a later process asks the store about every number from the oldest open one on.
        self._open.pop(group_id, None)

    def mix(self, mixture: Sequence[MixtureEntry]) -> None:
        """Draw by another mixture from the next lease on. Raises InvalidRequest for an impossible one."""
        source = self._tasks.changed(self._next, mixture)
        if source.mixture != self._tasks.mixture:
            self._tasks, self._encoded, self._changed = source, source.encode(), True
            self.save()

    def save(self) -> None:
        """Write the cursor, so that a later process knows what was drawn."""
        if self._changed:
            oldest = next(iter(self._open.values()), self._next)  # they were drawn in order
            cursor = {"next": self._next, "oldest": oldest, "tasks": self._encoded, "key": self._key.hex()}
            self._store.set_cursor(json.dumps(cursor))
            self._changed = False

    def _load(self, seed: int, mixture: Sequence[MixtureEntry]) -> tuple[int, int, TaskSource, bytes]:
        text = self._store.cursor()
        if text is None:
            self._changed = True  # a later process must know the key before anyone is granted anything
            return 0, 0, TaskSource(seed, mixture), Nonces.new_key()
        try:
            cursor = json.loads(text)
            tasks, key = TaskSource.decode(cursor["tasks"]), bytes.fromhex(cursor["key"])
            return int(cursor["next"]), int(cursor["oldest"]), tasks, key
        except (ValueError, KeyError, TypeError) as error:
            raise StateCorrupt(
                f"store: the cursor {text[:80]!r} cannot be read ({error}); start the run over"
            ) from error

    def _group_id(self, number: int) -> str:
        return f"{self._run_id}/train/{number}"

    def _lease(self, number: int) -> Lease:
        task = self._tasks.at(number)
        return Lease(
            group_id=self._group_id(number),
            environment=task.environment,
            split=task.split,
            index=task.index,
            seed=task.seed,
            num_samples=self._num_samples,
            limit_seconds=self._limit_seconds,
            usual_sampling=task.sampling,
        )
