"""What keeps groups from training, by cause: a warning the first time, counts for the message that ends a wait.

A warning names the worker or verifier, the cause and what happens next; repetitions are only counted. Texts that
differ in numbers alone are one cause, and the number of causes is bounded: texts come from outside.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rlserve.actors.learner.leases.lease_state import Release, WorkerLeases
from rlserve.errors import PluginFailed
from rlserve.records import Failure, FailureKind, RolloutGroup

MAX_CAUSES = 32
"""Of one kind of trouble; later ones are counted together. Any bound will do: the texts come from outside."""
WARNINGS_OF_A_KIND = 5
"""Causes of one kind that are warned of; more would bury the first."""
MAX_CHARACTERS = 300
"""Of a text from outside: two lines of a terminal or three."""
IDLE_RETURNS = 8
"""A worker that returned so many leases in a row, and finished none, is warned of."""
OTHERS = "other causes"
DEFECTS = (FailureKind.INTERNAL, FailureKind.INVALID, FailureKind.CRASH)
"""Failures of a verifier that waiting does not cure."""

Warn = Callable[..., None]
"""``warn(message, **fields)``; see ``observability.warner``."""


class Causes:
    """Counts of one kind of trouble by cause.

    Example: ``add("port 7 refused")`` is True, ``add("port 8 refused")`` False: the same cause, counted twice.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._texts: dict[str, str] = {}

    def add(self, text: str) -> bool:
        """Count ``text``; True when its cause is new and worth a warning."""
        key = re.sub(r"\d+", "#", text)
        known = key in self._texts or len(self._texts) >= MAX_CAUSES
        if not known:
            self._texts[key] = text
        self._counts[key if key in self._texts else OTHERS] += 1
        return not known and len(self._texts) <= WARNINGS_OF_A_KIND

    def clear_counts(self) -> None:
        """Count from 0; causes that were warned of are not warned of again."""
        self._counts.clear()

    @property
    def total(self) -> int:
        """All that were counted."""
        return self._counts.total()

    @property
    def only(self) -> str:
        """The text of the cause when there is a single one."""
        return self._texts.get(next(iter(self._counts)), "") if len(self._counts) == 1 else ""

    def __str__(self) -> str:
        """The three commonest, with their counts when there are several."""
        common = self._counts.most_common(3)
        texts = [(self._texts.get(key, key), count) for key, count in common]
        if len(self._counts) == 1:
            return texts[0][0]
        rest = self._counts.total() - sum(count for _, count in common)
        return ", ".join([*(f"{count} times {text}" for text, count in texts), *([f"{rest} others"] if rest else [])])


class Troubles:
    """The troubles of one learner process. Not thread-safe."""

    def __init__(self, *, batch: int, warn: Warn) -> None:
        """``batch`` is the number of groups in a step."""
        self._batch = batch
        self._warn = warn
        self._unjudged = Causes()
        self._returned = Causes()
        self._rejected = Causes()
        self._judged = False
        self._unjudged_groups = self._all_groups = 0
        self._received = 0
        self._dropped: Counter[str] = Counter()
        self._rewards: tuple[float, float] | None = None
        self._idle: set[str] = set()
        self.fatal = ""
        """Why the run cannot go on: no verdict was reached yet, always for one reason that waiting does not cure."""

    def received(self, group: RolloutGroup, reason: str, *, trains: bool = True) -> None:
        """A group was received, and dropped for ``reason`` unless that is empty."""
        self._all_groups += 1
        # Of evaluations too: the one before training shows a broken verifier first.
        self._note_verdicts(group)
        if not trains:
            return
        self._received += 1
        if reason:
            self._dropped[reason] += 1
            self._note_rewards(group, reason)

    def rejected(self, worker_id: str, reason: str, message: str, *, tell: bool = True) -> None:
        """A group was rejected; ``tell`` warns of a new cause."""
        text = plain(f"{worker_id}: {reason}: {message}")
        if self._rejected.add(text) and tell:
            self._warn(f"rejected a group of {text}; its lease is worked on again")

    def returned(self, release: Release, cause: str, in_row: int) -> None:
        """A worker did not finish a lease, the ``in_row``-th in a row."""
        worker_id, text = release.worker_id, plain(cause)
        if self._returned.add(f"{worker_id}: {text}"):
            fate = "it is abandoned" if release.abandoned else "it is tried again"
            self._warn(f"{worker_id} returned the lease of {release.lease.environment!r}: {text}; {fate}")
        if in_row >= IDLE_RETURNS and worker_id not in self._idle and len(self._idle) < MAX_CAUSES:
            self._idle.add(worker_id)
            self._warn(f"{worker_id} finishes nothing: it returned {in_row} leases in a row, the last for: {text}")

    def check(self) -> None:
        """Raise PluginFailed when the run cannot go on."""
        if self.fatal:
            raise PluginFailed(self.fatal)

    def batch_taken(self) -> None:
        """A batch was taken: count for the next one from 0."""
        self._received = 0
        self._dropped.clear()
        self._rewards = None
        for causes in (self._unjudged, self._returned, self._rejected):
            causes.clear_counts()

    def story(self) -> str:
        """What was received since the last batch and why it was not trained on."""
        parts = []
        if self._received:
            parts.append(f"{self._received} received, {self._dropped_text()}")
        if self._rejected.total:
            parts.append(f"{self._rejected.total} rejected ({self._rejected})")
        if self._returned.total:
            parts.append(f"{self._returned.total} leases came back unfinished ({self._returned})")
        return "; ".join(parts)

    def delay(self, workers: Sequence[WorkerLeases]) -> str:
        """Why groups do not come: what came instead, and what the workers hold."""
        owed = [worker.text for worker in workers] or ["no rollout worker is connected: start one, or read its log"]
        return "; ".join(filter(None, [self.story(), *owed]))

    def _dropped_text(self) -> str:
        reasons = [f"{count} {reason}{self._detail(reason)}" for reason, count in self._dropped.most_common()]
        return f"{self._dropped.total()} dropped" + (f": {', '.join(reasons)}" if reasons else "")

    def _detail(self, reason: str) -> str:
        if reason == "no_verdict" and self._unjudged.total:
            return f" ({self._unjudged})"
        if reason == "zero_variance" and self._rewards is not None:
            low, high = self._rewards
            alike = f"all rewards {low:g}" if low == high else f"alike in each group, from {low:g} to {high:g}"
            return f" ({alike})"
        return ""

    def _note_rewards(self, group: RolloutGroup, reason: str) -> None:
        rewards = [t.verdict.reward for t in group.scored() if t.verdict is not None]
        if reason == "zero_variance" and rewards:
            low, high = self._rewards or (rewards[0], rewards[0])
            self._rewards = min(low, *rewards), max(high, *rewards)

    def _note_verdicts(self, group: RolloutGroup) -> None:
        failures = list(_failures(group))
        judged = any(t.verdict is not None and t.verdict.has_reward for t in group.trajectories)
        self._judged = self._judged or judged
        for failure in failures:
            # The first line names the error; the traceback behind it goes into the event alone.
            who, _, trace = failure.message.partition("\n")
            text = plain(f"{_culprit(failure)}: {who}")
            if self._unjudged.add(text):
                self._warn(
                    f"no verdict from {text}; such samples have no reward and teach nothing",
                    **({"traceback": trace} if trace else {}),
                )
        if failures and not judged:
            self._unjudged_groups += 1
            self._judge_the_run(failures)

    def _judge_the_run(self, failures: list[Failure]) -> None:
        hopeless = all(failure.kind in DEFECTS for failure in failures)
        # The chain reads: at least a whole batch, and all groups so far are without a verdict.
        if self._judged or self.fatal or not hopeless or not self._batch <= self._unjudged_groups == self._all_groups:
            return
        if only := self._unjudged.only:
            self.fatal = (
                f"{only}: so ended all {self._unjudged.total} verdicts of the first {self._unjudged_groups} groups, "
                "and none was reached; fix that, then resume the run"
            )


def plain(text: str) -> str:
    """Text from outside as one bounded line: control characters are escaped."""
    # Cut before it is escaped: a text from outside may have megabytes.
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_CHARACTERS])
    return line if len(text) <= MAX_CHARACTERS else f"{line}..."


def _failures(group: RolloutGroup) -> Iterator[Failure]:
    return (t.verdict.failure for t in group.trajectories if t.verdict is not None and t.verdict.failure is not None)


def _culprit(failure: Failure) -> str:
    kind, _, name = failure.source.partition(":")
    return f"{kind} {name!r}" if name else kind
