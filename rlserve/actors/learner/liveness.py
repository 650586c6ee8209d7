"""Which of the learner's ranks is to blame when a collective operation fails.

A collective that fails says little: the connection that broke is often one to a rank that gave up itself. So each
rank writes, every second, a count and what it is doing to the store where the ranks met. Who fails reads
everybody's entry twice: a rank whose count stands still is dead or frozen.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch lists it in no __all__

from rlserve.actors.learner.deepspeed_setup import RankInfo
from rlserve.errors import RlserveError, Unavailable

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
STORE_SECONDS = 5.0
COLLECTIVE_FAILURES = ("connection", "timed out", "timeout", "gloo", "nccl", "socket", "broken pipe")
"""Words that tell the failure of a collective from any other RuntimeError."""


class RankHealth:
    """Beats for this rank, and judges the others."""

    def __init__(self, rank_info: RankInfo) -> None:
        self._rank_info = rank_info
        self._store = TCPStore(
            rank_info.address,
            rank_info.port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=STORE_SECONDS),
        )
        self._doing = "starting"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="rank-liveness", daemon=True)
        self._thread.start()

    @contextmanager
    def attributed(self, doing: str) -> Iterator[None]:
        """Turn the failure of a collective inside the block into Unavailable that names the rank to blame."""
        before, self._doing = self._doing, doing
        try:
            yield
            self._doing = before
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
        """Who stands still, or else who is doing something else than this rank."""
        first = self._entries()
        time.sleep(3 * BEAT_SECONDS)
        second = self._entries()
        if second is None or first is None:
            return "rank 0 is gone, where the ranks met"
        still = [rank for rank in second if rank != self._rank_info.rank and first.get(rank) == second[rank]]
        if still:
            return " and ".join(f"rank {r} is dead or frozen (last: {_doing(second[r])})" for r in still)
        others = {rank: _doing(entry) for rank, entry in second.items() if _doing(entry) != self._doing}
        if others:
            return ", ".join(f"rank {rank} is at another place: {doing}" for rank, doing in others.items())
        return "all ranks are alive and at the same place; raise learner.rank_timeout_seconds or look at the network"

    def close(self) -> None:
        """Stop beating."""
        self._stop.set()
        self._thread.join(2 * STORE_SECONDS)

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(BEAT_SECONDS if count else 0):
            count += 1
            try:
                self._store.set(_key(self._rank_info.rank), f"{count} {self._doing}")
            except RuntimeError:  # rank 0, whose store it is, has ended
                return

    def _entries(self) -> dict[int, str] | None:
        """What each rank wrote last; None when the store is gone."""
        try:
            return {rank: self._entry(rank) for rank in range(self._rank_info.world_size)}
        except RuntimeError:
            return None

    def _entry(self, rank: int) -> str:
        key = _key(rank)
        return self._store.get(key).decode() if self._store.check([key]) else "0 nothing yet"


def _key(rank: int) -> str:
    return f"rlserve/beat/{rank}"


def _doing(entry: str) -> str:
    return entry.split(" ", 1)[1]
