"""Held-out evaluations: wait for workers to serve the version, have its tasks done, score and record them.

A worker that does not confirm the version within LAGGARD_SECONDS of the last that did is named in a warning and left
out. The run ends only when no worker serves it within ``launch.start_seconds``.

An evaluation that was due when a checkpoint was saved is made first after a resume, by the same weights; the store
remembers the last one made, so that none is made twice.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.measure.best import BestCheckpoint
from rlserve.actors.learner.measure.evaluation import Evaluation, evaluation_leases, parts_of, sample_rows, score
from rlserve.actors.learner.reporter import Reporter
from rlserve.actors.learner.waiting import Waits
from rlserve.config.run import RunConfig
from rlserve.errors import DeadlineExceeded
from rlserve.observability.warner import Warner
from rlserve.store.base import Store

POLL_SECONDS = 0.02  # far below the seconds of a swap, and no load
LAGGARD_SECONDS = 20.0
"""Many times what a swap of weights takes: a worker that needs longer is stuck."""
MEASURED = "measured"


class Measuring:
    """Makes the held-out evaluations of a run.

    Example: ``measure("before", 0)`` with workers a (serves 0) and b (serves nothing yet): it waits for b, at most
    LAGGARD_SECONDS after a confirmed, then a alone is granted the evaluation's leases.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        inbox: Inbox,
        store: Store,
        reporter: Reporter,
        waits: Waits,
        best: BestCheckpoint,
        served: Callable[[], Mapping[str, int]],
        warn: Warner,
        check: Callable[[], None],
        starting: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``served`` gives the version that each worker confirmed last; ``check`` is called in waits, may raise;
        ``starting`` are the actors whose engines start."""
        self._starting = starting
        self._config = config
        self._inbox = inbox
        self._store = store
        self._reporter = reporter
        self._waits = waits
        self._best = best
        self._served = served
        self._warn = warn
        self._check = check
        self._clock = clock

    def was_made(self, when: str, step: int) -> bool:
        """Whether this was the last evaluation made, by this process or an earlier one."""
        return self._store.recall(MEASURED) == _mark(when, step)

    def measure(self, when: str, step: int) -> Evaluation:
        """Evaluate version ``step``, which is published. Raises DeadlineExceeded when no worker serves it."""
        self._reporter.phase(f"evaluate_{when}")
        # Before the leases go out: the first worker to confirm would take as many as it has room for, while the others
        # swap.
        self._wait_until_served(when, step)
        leases = evaluation_leases(self._config, when)
        self._inbox.evaluate(leases)
        groups, missing = self._waits.measurement(len(leases))
        evaluation = score(groups, asked=len(leases), k=self._config.evaluate.sizes, parts=parts_of(self._config))
        if missing:
            self._warn(f"evaluation {when}: is made of what came in time; {missing}")
        self._reporter.measured(when, step, evaluation, sample_rows(when, groups, keep=self._config.evaluate.keep))
        self._best.note(step, evaluation)
        self._warn_if_none_is_best(evaluation)
        # Last: after a crash before this line the evaluation is made again.
        self._store.remember(MEASURED, _mark(when, step))
        return evaluation

    def _warn_if_none_is_best(self, evaluation: Evaluation) -> None:
        key = self._config.evaluate.keep_best
        if key and evaluation.measures and evaluation.value(key) is None:
            self._warn(
                f"evaluate.keep_best: {key!r} was not measured, for rewards are on a scale and nothing says where "
                "right begins; take 'reward_mean', or set the threshold pass_at of the verifier or environment",
                cause="keep_best",
            )

    def _wait_until_served(self, when: str, version: int) -> None:
        moved, confirmed = self._clock(), 0
        while True:
            self._check()
            held = self._held()
            ready = sorted(worker for worker, its in held.items() if its == version)
            behind = {worker: its for worker, its in held.items() if its != version}
            if len(ready) > confirmed or (not held and self._starting()):
                moved = self._clock()
            confirmed, waited = len(ready), self._clock() - moved
            if ready and (not behind or waited > LAGGARD_SECONDS):
                self._name_laggards(when, version, ready, behind)
                return
            if not ready and waited > self._config.launch.start_seconds:
                raise DeadlineExceeded(
                    f"evaluation {when}: no rollout worker serves version {version} after {waited:.0f} s "
                    f"(launch.start_seconds): {_described(behind) or 'no worker joined'}; see their logs"
                )
            time.sleep(POLL_SECONDS)

    def _name_laggards(self, when: str, version: int, ready: Sequence[str], behind: Mapping[str, int | None]) -> None:
        if behind:
            self._warn(
                f"evaluation {when}: {_described(behind)} did not confirm version {version} in {LAGGARD_SECONDS:g} s "
                f"after the last that did; it is made without, by {', '.join(ready)}. See the log of who lags",
                cause=f"laggards: {', '.join(sorted(behind))}",
            )

    def _held(self) -> dict[str, int | None]:
        """The version that each worker on the stream confirmed last."""
        served = self._served()
        return {w.worker_id: served.get(w.worker_id) for w in self._inbox.workers() if w.connected}


def _described(workers: Mapping[str, int | None]) -> str:
    return ", ".join(
        f"{worker} ({'has confirmed none' if held is None else f'serves {held}'})" for worker, held in workers.items()
    )


def _mark(when: str, step: int) -> str:
    return f"{when}@{step}"
