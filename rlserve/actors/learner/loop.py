"""The learner's loop: groups -> batch -> loss -> step -> publish -> checkpoint.

``run`` is one thread; the services run in another (an asyncio loop), and they meet in inbox and publisher.

* ``waiting`` waits for a full batch of fresh groups. Unblocked by the rollout stream; its error names the workers that
  hold leases, and why the groups received were not trained on.
* ``publish`` waits for no worker: they fetch when they can, and those too far behind are granted no leases. The version
  is written and announced while the next step runs; a third thread does that, and ``check`` raises its errors here.
* ``measuring`` waits for the workers on the stream to confirm the present version, then for the groups.

No step is made of a batch whose loss or gradient is not finite: ``poison`` drops the groups that cause it, and the
next batch is taken for the same step.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Event

from rlserve.actors.checkpoints import STORE_FILE
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.leases.curriculum import Curriculum
from rlserve.actors.learner.live_settings import LiveSettings
from rlserve.actors.learner.loop_state import LoopState
from rlserve.actors.learner.measure.best import BestCheckpoint
from rlserve.actors.learner.measure.evaluation import Evaluation
from rlserve.actors.learner.measure.measuring import Measuring
from rlserve.actors.learner.next_batch import NextBatch
from rlserve.actors.learner.poison import PoisonGuard
from rlserve.actors.learner.reporter import Reporter
from rlserve.actors.learner.step_metrics import Sync, step_metrics
from rlserve.actors.learner.train.engine import StepReport
from rlserve.actors.learner.train.schedule import why_sync
from rlserve.actors.learner.train.trainer import Trainer
from rlserve.actors.learner.waiting import Waits
from rlserve.batching.collate import BatchLayout, OptimizerBatch, collate, minibatches
from rlserve.observability.warner import Warner
from rlserve.records import RolloutGroup
from rlserve.store.base import Store

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal asked the process to end; a checkpoint was saved."""


class TrainingLoop:
    """Runs a configuration from its present step to its last.

    Example, ``steps`` 2 with evaluations: publish 0, evaluate "before", step 1, publish 1, step 2, publish 2, save,
    evaluate "after", summary.
    """

    def __init__(
        self,
        *,
        live: LiveSettings,
        trainer: Trainer,
        inbox: Inbox,
        store: Store,
        reporter: Reporter,
        served: Callable[[], Mapping[str, int]],
        state: LoopState,
        best: BestCheckpoint,
        curriculum: Curriculum,
        warn: Warner,
        stop: Event,
        starting: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """``served`` gives the version that each worker confirmed last, ``starting`` the actors that start."""
        config = live.config
        self._live = live
        self._config = config
        self._trainer = trainer
        self._inbox = inbox
        self._store = store
        self._reporter = reporter
        self._state = state
        self._best = best
        self._saved_step: int | None = None
        self._curriculum = curriculum
        self._warn = warn
        self._stop = stop
        self._waits = Waits(
            inbox,
            config.learner,
            warn=warn,
            check=self._end_if_asked,
            start_seconds=config.launch.start_seconds,
            starting=starting,
        )
        self._measuring = Measuring(
            config,
            inbox=inbox,
            store=store,
            reporter=reporter,
            waits=self._waits,
            best=best,
            served=served,
            warn=warn,
            check=self._end_if_asked,
            starting=starting,
        )
        self._layout = BatchLayout(
            tokens_per_micro_batch=config.learner.tokens_per_micro_batch,
            max_new_tokens=config.rollout.max_new_tokens,
            max_length=config.model.max_length,
            ranks=config.learner.ranks // config.learner.sequence_parallel,
            packing=config.learner.packing,
            max_token_lag=config.learner.max_token_lag,
            reference=trainer.served_reference,
        )
        self._next = NextBatch(self._collated, trainer)
        self._poison = PoisonGuard(trainer, self._layout, inbox.queue, warn)

    def run(self) -> None:
        """Train to the end. Raises Stopped after a signal, DeadlineExceeded when groups stop coming."""
        # Also after a resume: workers fetch from this process, whose publisher has no version yet.
        self._publish_and_wait()
        # A run of an evaluation alone: no training lease may go out before it.
        if not self._config.steps:
            self._inbox.stop_training()
        after = None
        if self._config.evaluate.is_on and self._state.before is None:
            after = self._evaluate("before")
            self._state.before = after.to_json()
        self._evaluate_what_is_owed()
        if self._config.steps:
            after = self._train()
        # The last version and checkpoint may be on their way: the run has not succeeded before they are there.
        self._trainer.wait()
        self._reporter.summarize(
            step=self._state.step,
            before=self._state.before,
            after=after,
            best=self._best.to_json(),
            lag_tokens=self._state.lag_tokens,
        )

    def _train(self) -> Evaluation | None:
        """Step until finished; returns the evaluation afterwards."""
        self._reporter.phase("training", total_steps=self._config.steps)
        while not self._finished():
            self._one_step()
        self._next.close()
        # Before the save and the evaluation, in which workers would sample groups that no step trains on.
        self._inbox.stop_training()
        self._save()
        return self._evaluate("after") if self._config.evaluate.is_on else None

    def _take_settings(self) -> None:
        """Take over what ``rlserve set`` changed."""
        if changed := self._live.look():
            self._config = self._live.config
            self._next.forget()
            self._reporter.settings_changed(self._config, self._state.step, changed)

    def _finished(self) -> bool:
        self._take_settings()
        if self._state.has_reached(self._config.stop_reward):
            self._reporter.ends_early(
                f"the mean reward of the last steps reached stop_reward = {self._config.stop_reward:g}"
            )
            return True
        if self._config.stop_groups is not None and self._inbox.queue.counts().received >= self._config.stop_groups:
            self._reporter.ends_early(f"as many groups came in as stop_groups = {self._config.stop_groups} wants")
            return True
        if reason := self._best.why_stop(self._config.evaluate.patience):
            self._reporter.ends_early(reason)
            return True
        return self._state.step >= self._config.steps

    def _one_step(self) -> None:
        """Take a batch and train on it; no step is made when its loss or gradient is not finite."""
        self._trainer.check()
        waiting = time.monotonic()
        groups = self._waits.batch()
        waited = time.monotonic() - waiting
        self._take_settings()  # a batch may take minutes to come
        step, building = self._state.step, time.monotonic()
        self._next.settle()
        # Preparing a batch may change what the algorithm remembers; a batch that is not trained on must leave no trace.
        memory = self._trainer.algorithm_state()
        try:
            batches = self._next.batches(groups, step)
        except Exception as error:  # raised by the algorithm, which may be a plug-in
            self._trainer.restore_algorithm(memory)
            self._poison.drop_unready(step + 1, groups, error)
            return
        built = time.monotonic() - building
        lr = self._live.rate(self._state.step)
        size = self._config.learner.groups_per_step
        with self._next.building(lambda: self._inbox.queue.foreseen(size), version=step + 1):
            report = self._trainer.train(batches, passes=self._config.learner.passes, lr=lr)
        trained = [group.group_id for group in groups]
        if not report.updates or report.skipped:
            self._next.settle()
        if not report.updates:
            self._trainer.restore_algorithm(memory)
            self._poison.drop(self._state.step + 1, groups, report)
            return
        if report.skipped:
            trained = self._poison.drop_part(self._state.step + 1, groups, report)
        self._poison.stepped()
        self._state.step += 1
        sync = self._account(groups, trained, report)
        self._after_step(
            step_metrics(
                groups=groups,
                batches=batches,
                report=report,
                sync=sync,
                version=self._state.step - 1,
                lr=lr,
                wait_seconds=waited,
                batch_seconds=built,
            )
        )

    def _collated(self, groups: Sequence[RolloutGroup], version: int) -> list[OptimizerBatch]:
        return [
            collate(part, self._trainer.algorithm, self._layout, version)
            for part in minibatches(groups, self._config.learner.minibatches)
        ]

    def _account(self, groups: Sequence[RolloutGroup], trained: Sequence[str], report: StepReport) -> Sync:
        """Account for the groups; give the workers new weights if that is due."""
        reason = self._why_sync(report.metrics.get("mismatch_kl", 0.0))
        # Before the publication: a worker can fetch the version and send groups of it before ``published`` is called.
        self._inbox.queue.commit(self._state.step, trained, publishes=reason is not None)
        publishing = time.monotonic()
        if reason is not None:
            self._publish()
            self._state.syncs += 1
        seconds = time.monotonic() - publishing + self._trainer.publishing.take_waited_seconds()
        refreshed = self._refresh_if_due(synced=reason is not None)
        self._count_lag(groups)
        self._watch_ess(report.metrics)
        return Sync(
            reason=reason,
            steps_since=self._state.step - self._state.synced_step,
            reference_refreshed=refreshed,
            seconds=seconds,
            times=self._trainer.publishing.times,
        )

    def _after_step(self, numbers: dict[str, float]) -> None:
        received = self._reporter.step(self._state.step, numbers)
        if received is not None and math.isfinite(received):
            self._state.note_reward(received)
        # Owed before the save and made after it: a run that is killed during the evaluation makes it when it resumes.
        if self._is_due(self._config.evaluate.every_steps):
            self._state.owed = f"at-{self._state.step}"
        if self._is_due(self._config.checkpoint.every_steps):
            self._save()
        if self._evaluate_what_is_owed():
            self._reporter.phase("training", total_steps=self._config.steps)

    def _is_due(self, every: int) -> bool:
        # Not at the last step, which ``_train`` saves and evaluates anyway.
        return bool(every) and self._state.step % every == 0 and self._state.step < self._config.steps

    def _end_if_asked(self) -> None:
        self._trainer.check()
        if self._stop.is_set():
            # Nothing is lost with step 0: a resume without a checkpoint begins there.
            if self._state.step:
                self._save()
            self._trainer.wait()
            raise Stopped

    def _why_sync(self, mismatch_kl: float) -> str | None:
        since = self._state.step - self._state.synced_step
        return why_sync(self._config.sync, steps_since=since, mismatch_kl=mismatch_kl)

    def _refresh_if_due(self, *, synced: bool) -> bool:
        """Make the policy the reference after every ``refresh_every_syncs`` syncs; returns whether it did."""
        every = self._config.reference.refresh_every_syncs
        due = synced and every > 0 and self._state.syncs % every == 0 and self._trainer.has_reference
        if due:
            self._trainer.refresh_reference()
        return due

    def _publish(self) -> None:
        step = self._state.step
        # Leases go out again, and lag counts from the version, only once workers can fetch it.
        self._trainer.publish(step, lambda: self._inbox.queue.published(step))
        self._state.synced_step = step

    def _publish_and_wait(self) -> None:
        self._publish()
        self._trainer.publishing.wait()

    def _publish_if_behind(self) -> None:
        if self._state.synced_step < self._state.step:
            # No commit announced it, so that leases of the older version would go out meanwhile.
            self._publish_and_wait()

    def _save(self) -> None:
        self._publish_if_behind()  # a resumed run begins by publishing: this one must do the same at this step
        self._next.settle()  # the checkpoint holds what the algorithm remembers
        self._state.curriculum = self._curriculum.to_json()
        # Before the copy, which must carry the mark too: a store with a smaller one is refused as older than the
        # checkpoint.
        self._state.store = self._store.mark()
        step = self._state.step
        self._trainer.save(
            step,
            self._state.to_json(),
            beside=lambda place: self._store.copy_to(place / STORE_FILE, step=step),
            best=self._best.step,
            saved=lambda _: self._saved(step),
        )
        self._saved_step = step

    def _saved(self, step: int) -> None:
        """The checkpoint of this step is in place."""
        self._best.link()
        # Only now: it deletes payloads that only a resume from an older checkpoint needs.
        self._inbox.queue.checkpointed(step)

    def _count_lag(self, groups: Sequence[RolloutGroup]) -> None:
        # The step is counted by now; its batch met the weights before it.
        version = self._state.step - 1
        for group in groups:
            for trajectory in group.trajectories:
                for span in trajectory.policy_spans:
                    self._state.lag_tokens[version - span.version] += span.length

    def _watch_ess(self, measured: Mapping[str, float]) -> None:
        share, least = measured.get("ess"), self._config.learner.ess_warn
        if share is not None and share < least:
            self._warn(
                f"step {self._state.step}: the effective sample size is {share:.2f}, below learner.ess_warn = "
                f"{least:g}: the policy has moved far from the one that sampled. If it stays so, lower learner.lr or "
                "learner.max_lag",
                cause="ess",
            )

    def _evaluate_what_is_owed(self) -> bool:
        """Make the evaluation that is due at this step, unless an earlier process did; returns whether it did."""
        when = self._state.owed
        owed = bool(when and self._config.evaluate.is_on) and not self._measuring.was_made(when, self._state.step)
        if owed:
            self._evaluate(when)
        self._state.owed = ""
        return owed

    def _evaluate(self, when: str) -> Evaluation:
        self._publish_if_behind()
        evaluation = self._measuring.measure(when, self._state.step)
        # The start model needs no checkpoint; it stays where it is.
        if self._best.step == self._state.step and 0 < self._state.step != self._saved_step:
            self._save()
        self._best.link()
        return evaluation
