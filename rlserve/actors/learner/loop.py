"""The learner's loop: groups -> batch -> loss -> step -> publish -> checkpoint.

``run`` is one thread; the services run in another (an asyncio loop), and they meet in inbox and publisher.

* ``inbox.take`` waits for a full batch of fresh groups. Unblocked by the rollout stream; its deadline names
  the workers that owe groups.
* ``publish`` waits for nobody: workers fetch when they can, and the lag bound holds back those who cannot.
* ``evaluate`` waits for every worker on the stream to confirm the present version, then for the groups.
"""

import logging
import time
from collections.abc import Sequence
from threading import Event

from rlserve.actors.learner.curriculum import Curriculum
from rlserve.actors.learner.evaluation import Evaluation, evaluation_leases, score, write_samples
from rlserve.actors.learner.inbox import Inbox
from rlserve.actors.learner.loop_state import LoopState
from rlserve.actors.learner.reporter import Reporter
from rlserve.actors.learner.schedule import learning_rate
from rlserve.actors.learner.trainer import Trainer
from rlserve.algorithms.sync import why_sync
from rlserve.batching.collate import BatchLayout, collate, minibatches
from rlserve.batching.summary import summarize
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import DeadlineExceeded
from rlserve.records import RolloutGroup

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
REWARD_WINDOW = 5
SEQUENCES = ("batch/sequences", "batch/sequences_without_gradient")


class Stopped(Exception):
    """The process was asked to end; the loop has saved what it had."""


class TrainingLoop:
    """Runs a configuration from its present step to its last."""

    def __init__(
        self,
        *,
        config: RunConfig,
        paths: RunPaths,
        trainer: Trainer,
        inbox: Inbox,
        reporter: Reporter,
        state: LoopState,
        curriculum: Curriculum,
        stop: Event,
    ) -> None:
        self._config = config
        self._paths = paths
        self._trainer = trainer
        self._inbox = inbox
        self._reporter = reporter
        self._state = state
        self._curriculum = curriculum
        self._stop = stop
        self._layout = BatchLayout(
            tokens_per_micro_batch=config.learner.tokens_per_micro_batch,
            max_new_tokens=config.rollout.max_new_tokens,
            max_length=config.model.max_length,
            ranks=config.learner.ranks,
            packing=config.learner.packing,
            max_token_lag=config.learner.max_token_lag,
            reference=trainer.served_reference,
        )

    def run(self) -> None:
        """Train to the end. Raises Stopped when asked to end before, DeadlineExceeded when starved."""
        self._publish()
        if not self._config.steps:
            self._inbox.stop_training()
        accuracy = None
        if self._config.evaluate.problems and self._state.accuracy_before is None:
            self._state.accuracy_before = accuracy = self._evaluate("before").accuracy
        if self._config.steps:
            accuracy = self._train()
        self._reporter.summarize(
            step=self._state.step,
            accuracy_before=self._state.accuracy_before,
            accuracy_after=accuracy,
            lag_tokens=self._state.lag_tokens,
        )

    def _train(self) -> float | None:
        """Step until finished; returns the held-out accuracy afterwards."""
        self._reporter.phase("training", total_steps=self._config.steps)
        while not self._finished():
            self._one_step()
        self._inbox.stop_training()
        self._save()
        return self._evaluate("after").accuracy if self._config.evaluate.problems else None

    def _finished(self) -> bool:
        wanted = self._config.stop_reward
        recent = self._state.recent_rewards
        if wanted is not None and len(recent) == REWARD_WINDOW and sum(recent) / REWARD_WINDOW >= wanted:
            logger.info("mean reward of the last %d steps reached %g", REWARD_WINDOW, wanted)
            return True
        if self._config.stop_groups is not None and self._inbox.counts().received >= self._config.stop_groups:
            logger.info("received %d groups, as many as were wanted", self._config.stop_groups)
            return True
        return self._state.step >= self._config.steps

    def _one_step(self) -> None:
        waiting = time.monotonic()
        groups = self._next_groups()
        waited = time.monotonic() - waiting
        batches = [
            collate(part, self._trainer.algorithm, self._layout, self._state.step)
            for part in minibatches(groups, self._config.learner.minibatches)
        ]
        lr = learning_rate(self._config.learner, self._state.step)
        report = self._trainer.train(batches, passes=self._config.learner.passes, lr=lr)
        self._state.step += 1
        reason = self._why_sync(report.metrics.get("mismatch_kl", 0.0))
        self._inbox.commit(self._state.step, [group.group_id for group in groups], publishes=reason is not None)
        publishing = time.monotonic()
        if reason is not None:
            self._publish()
            self._state.syncs += 1
        refreshed = self._refresh_if_due(synced=reason is not None)
        self._count_lag(groups)
        numbers = {
            "sync/steps_since": float(self._state.step - self._state.synced_step),
            "sync/by_divergence": float(reason == "divergence"),
            "sync/reference_refreshed": float(refreshed),
            **summarize(groups, self._state.step - 1),
            **{name: sum(batch.summary[name] for batch in batches) for name in SEQUENCES},
            **{f"algorithm/{name}": value for name, value in report.metrics.items() if name != "loss"},
            "learner/loss": report.loss,
            "learner/grad_norm": report.grad_norm,
            "learner/lr": lr,
            "learner/skipped_steps": float(report.skipped_steps),
            "learner/updates": float(len(batches) * self._config.learner.passes),
            "learner/step_seconds": report.seconds,
            "learner/wait_seconds": waited,
            "learner/publish_seconds": time.monotonic() - publishing,
        }
        self._after_step(numbers)

    def _after_step(self, numbers: dict[str, float]) -> None:
        received = self._reporter.step(self._state.step, numbers)
        if received is not None:
            self._state.recent_rewards = [*self._state.recent_rewards, received][-REWARD_WINDOW:]
        every = self._config.checkpoint.every_steps
        if every and self._state.step % every == 0 and self._state.step < self._config.steps:
            self._save()
        every = self._config.evaluate.every_steps
        if every and self._state.step % every == 0 and self._state.step < self._config.steps:
            self._evaluate(f"at-{self._state.step}")
            self._reporter.phase("training", total_steps=self._config.steps)

    def _next_groups(self) -> list[RolloutGroup]:
        deadline = time.monotonic() + self._config.learner.max_wait_seconds
        while True:
            self._end_if_asked()
            try:
                return self._inbox.take(self._config.learner.groups_per_step, deadline_seconds=POLL_SECONDS)
            except DeadlineExceeded:
                if time.monotonic() > deadline:
                    raise

    def _end_if_asked(self) -> None:
        if self._stop.is_set():
            if self._state.step:
                self._save()
            raise Stopped

    def _why_sync(self, mismatch_kl: float) -> str | None:
        since = self._state.step - self._state.synced_step
        return why_sync(self._config.sync, steps_since=since, mismatch_kl=mismatch_kl)

    def _refresh_if_due(self, *, synced: bool) -> bool:
        """Make the policy the reference after so many syncs; returns whether it did."""
        every = self._config.reference.refresh_every_syncs
        due = synced and every > 0 and self._state.syncs % every == 0 and self._trainer.has_reference
        if due:
            self._trainer.refresh_reference()
        return due

    def _publish(self) -> None:
        self._trainer.publish(self._state.step)
        self._inbox.published(self._state.step)
        self._state.synced_step = self._state.step

    def _publish_if_behind(self) -> None:
        if self._state.synced_step < self._state.step:
            self._publish()

    def _save(self) -> None:
        self._publish_if_behind()  # a resumed run begins by publishing: so does one that goes on
        self._state.curriculum = self._curriculum.to_json()
        self._trainer.save(self._state.step, self._state.to_json())
        self._inbox.checkpointed(self._state.step)

    def _count_lag(self, groups: Sequence[RolloutGroup]) -> None:
        version = self._state.step - 1
        for group in groups:
            for trajectory in group.trajectories:
                for span in trajectory.policy_spans:
                    self._state.lag_tokens[version - span.version] += span.length

    def _evaluate(self, when: str) -> Evaluation:
        self._publish_if_behind()
        self._reporter.phase(f"evaluate_{when}")
        self._reporter.wait_until_served(self._state.step, self._config.launch.start_seconds, self._end_if_asked)
        leases = evaluation_leases(self._config, when)
        self._inbox.evaluate(leases)
        groups = self._collect(len(leases))
        evaluation = score(groups)
        write_samples(self._paths.samples, when, groups, keep=self._config.evaluate.keep)
        self._reporter.accuracy(when, self._state.step, evaluation)
        return evaluation

    def _collect(self, count: int) -> list[RolloutGroup]:
        deadline = time.monotonic() + self._config.learner.max_wait_seconds
        while True:
            self._end_if_asked()
            try:
                return self._inbox.take_evaluation(count, deadline_seconds=POLL_SECONDS)
            except DeadlineExceeded:
                if time.monotonic() > deadline:
                    raise
