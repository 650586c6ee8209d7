"""Finds out which of the learner's ranks failed, when a collective operation fails.

The error of a collective names the wrong rank: the connection that broke often leads to a rank that itself gave up.
So each rank writes a heartbeat (a count, and its present operation) every second to the store where the ranks met. A
rank whose collective fails reads all heartbeats twice: a count that stands still belongs to a dead or frozen rank.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch lists it in no __all__

from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.errors import RlserveError, Unavailable

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
"""A failure is described after three of these: few seconds, and a busy machine still beats in time."""
STORE_SECONDS = 5.0
"""Longest wait for the store; it is one round trip, so any value well above that will do."""
COLLECTIVE_FAILURES = ("connection", "timed out", "timeout", "gloo", "nccl", "socket", "broken pipe")
"""Words in the message of a failed collective: torch raises plain RuntimeError for it, as for anything else."""


class RankHealth:
    """This rank's heartbeat, and the description of a failure from the heartbeats of all.

    Example, on rank 0 after rank 1 was killed::

        with health.attributed("command 7 (step)"):
            distributed.all_reduce(values)     # RuntimeError: connection reset by peer
        # Unavailable: learner rank 0: command 7 (step) failed: rank 1 is dead or frozen (last: command 7 (step)); ...
    """

    def __init__(self, rank_info: RankInfo) -> None:
        self._rank_info = rank_info
        # A connection of its own: the one of the process group waits minutes for an answer (``meeting_seconds``).
        self._store = connect(rank_info)
        self._doing = "starting"
        self._stop = threading.Event()
        # A daemon, so that a store that does not answer cannot keep the process alive.
        self._thread = threading.Thread(target=self._beat, name="rank-liveness", daemon=True)
        self._thread.start()

    @contextmanager
    def attributed(self, doing: str) -> Iterator[None]:
        """Turn the failure of a collective inside the block into Unavailable that names the failed rank."""
        before, self._doing = self._doing, doing  # the heartbeat thread reads it: one assignment, so no lock
        try:
            yield
            # Only after success: after a failure the heartbeat still names the operation, for the messages of the other
            # ranks.
            self._doing = before
        # Some of these are RuntimeErrors as well; their message is complete.
        except RlserveError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not any(word in reason.lower() for word in COLLECTIVE_FAILURES):
                raise
            raise Unavailable(
                f"learner rank {self._rank_info.rank}: {doing} failed: {self.describe_failure()}; "
                f"go on from the last checkpoint with --resume ({reason})"
            ) from error

    def describe_failure(self) -> str:
        """The ranks whose heartbeat stopped, or else those in another operation than this rank."""
        first = self._entries()
        time.sleep(3 * BEAT_SECONDS)  # long enough for every live rank to beat at least twice
        second = self._entries()
        if second is None or first is None:
            return "rank 0 is gone, and with it the store of heartbeats"
        still = [rank for rank in second if rank != self._rank_info.rank and first.get(rank) == second[rank]]
        if still:
            return " and ".join(f"rank {r} is dead or frozen (last: {_doing(second[r])})" for r in still)
        others = {rank: _doing(entry) for rank, entry in second.items() if _doing(entry) != self._doing}
        if others:
            return ", ".join(f"rank {rank} is in another operation: {doing}" for rank, doing in others.items())
        return (
            "all ranks are alive and in the same operation; raise learner.rank_timeout_seconds or look at the network"
        )

    def close(self) -> None:
        """Stop the heartbeat."""
        self._stop.set()
        # The thread may be in one call to the store, which takes at most STORE_SECONDS.
        self._thread.join(2 * STORE_SECONDS)

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(BEAT_SECONDS if count else 0):  # the first at once, to see an early death
            count += 1
            try:
                self._store.set(_key(self._rank_info.rank), f"{count} {self._doing}")
            except RuntimeError:  # rank 0, which holds the store, ended
                return

    def _entries(self) -> dict[int, str] | None:
        """Each rank's last heartbeat; None when the store is gone."""
        try:
            return {rank: self._entry(rank) for rank in range(self._rank_info.world_size)}
        except RuntimeError:
            return None

    def _entry(self, rank: int) -> str:
        key = _key(rank)
        # check first: get would wait for a key that a rank did not write yet
        return self._store.get(key).decode() if self._store.check([key]) else "0 nothing yet"


def connect(rank_info: RankInfo) -> TCPStore:
    """A new connection to the store where the ranks met."""
    return TCPStore(
        rank_info.address,
        rank_info.port,
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=STORE_SECONDS),
    )


def _key(rank: int) -> str:
    return f"rlserve/beat/{rank}"


def _doing(entry: str) -> str:
    return entry.split(" ", 1)[1]
