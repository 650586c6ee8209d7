"""The loop's waits: they end by progress, and say in time what does not come and why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlserve.actors.learner import waiting
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.measure.evaluation import evaluation_leases
from rlserve.actors.learner.waiting import HOPELESS_BATCHES, Waits, reasons
from rlserve.config.run import RunConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import DeadlineExceeded
from rlserve.observability.events import read_json_lines
from rlserve.observability.warner import Warner
from tests.support.clock import ManualClock
from tests.support.intake import answer, lease_out, make_inbox, offer

LIMIT = 100.0
CONFIG = LearnerConfig(groups_per_step=2, max_wait_seconds=LIMIT)
SOLVED, FLAT = (1.0, 0.0), (0.0, 0.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.001)


class Scene:
    """A wait whose time moves only as its script says: one entry a look."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.inbox: Inbox = make_inbox(directory / "groups.sqlite", max_outstanding=64, clock=self.clock)
        self._events = directory / "events.jsonl"
        self._script: list[Callable[[], None]] = []
        self.waits = Waits(self.inbox, CONFIG, warn=Warner(self._events), check=self._next, clock=self.clock)

    def then(self, seconds: float, *rewards: tuple[float, float]) -> None:
        """So many seconds pass, then groups of these rewards come in."""

        def happen() -> None:
            self.clock.advance(seconds)
            for lease, pair in zip(lease_out(self.inbox, capacity=64), rewards, strict=False):
                offer(self.inbox, answer(lease, rewards=pair))

        self._script.append(happen)

    def _next(self) -> None:
        if self._script:
            self._script.pop(0)()
        else:
            self.clock.advance(7.0)

    def warnings(self) -> list[str]:
        return [str(e["message"]) for e in read_json_lines(self._events)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_batch_that_trickles_in_is_waited_for_however_long_it_takes(scene: Scene) -> None:
    for _ in range(5):
        scene.then(0.9 * LIMIT, FLAT)
    scene.then(0.9 * LIMIT, SOLVED)
    scene.then(0.9 * LIMIT, SOLVED)
    assert len(scene.waits.batch()) == 2


def test_groups_that_grow_stale_in_the_queue_are_not_said_to_teach_nothing(scene: Scene) -> None:
    scene.then(0.0, SOLVED, SOLVED, SOLVED, SOLVED)
    scene._next()
    scene.inbox.queue.published(9)
    scene.then(1.0)
    scene.then(1.0, FLAT)
    scene.then(1.0, FLAT)
    with pytest.raises(DeadlineExceeded, match="0 of 2 groups"):
        scene.waits.batch()
    assert scene.inbox.queue.counts().dropped == {"stale": 4}  # the flat ones are refused: of version 0
    assert not any("teach nothing" in warning for warning in scene.warnings())


def test_where_nothing_comes_people_hear_of_it_early_and_the_run_ends_naming_who_owes(scene: Scene) -> None:
    lease_out(scene.inbox, "slow", capacity=3)
    with pytest.raises(DeadlineExceeded, match=r"0 of 2 groups.*slow holds 3 leases.*Nothing moved for 100 s"):
        scene.waits.batch()
    (warning,) = scene.warnings()
    assert warning.startswith("nothing came for 21 s")
    assert "slow holds 3 leases" in warning and "paused" in warning


def test_the_first_whole_batch_that_teaches_nothing_is_told_at_once_by_reason(scene: Scene) -> None:
    scene.then(0.1, FLAT)
    scene.then(0.1, FLAT)
    scene.then(0.1, FLAT)
    scene.then(0.1, SOLVED, SOLVED)
    scene.waits.batch()
    (warning,) = scene.warnings()
    assert warning.startswith("the last 2 groups teach nothing: 2 zero_variance (all samples of a task have the same")


def test_tasks_that_nobody_solves_end_the_run_once_they_had_their_chance(scene: Scene) -> None:
    groups = HOPELESS_BATCHES * CONFIG.groups_per_step
    for _ in range(groups - 1):
        scene.then(0.5 * LIMIT, FLAT)  # slow, but it may still come
    scene.then(0.1, FLAT)
    with pytest.raises(DeadlineExceeded, match=rf"no group that teaches.*of the last {groups}, {groups} zero_variance"):
        scene.waits.batch()


def test_one_group_that_teaches_starts_the_time_anew(scene: Scene) -> None:
    for _ in range(HOPELESS_BATCHES * CONFIG.groups_per_step - 1):
        scene.then(0.5 * LIMIT, FLAT)
    scene.then(0.1, SOLVED)
    for _ in range(5):
        scene.then(0.5 * LIMIT, FLAT)
    scene.then(0.1, SOLVED)
    assert len(scene.waits.batch()) == 2


def measured(scene: Scene) -> int:
    config = RunConfig.model_validate(
        {
            "name": "run",
            "model": {"path": "m"},
            "environments": [{"name": "arithmetic"}],
            "evaluate": {"problems": 3, "samples": 2},
        }
    )
    leases = evaluation_leases(config, "before")
    scene.inbox.evaluate(leases)
    return len(leases)


def test_a_measurement_whose_groups_stop_coming_is_made_of_those_that_came(scene: Scene) -> None:
    count = measured(scene)
    scene.then(0.9 * LIMIT, SOLVED)
    scene.then(0.9 * LIMIT, FLAT)
    groups, missing = scene.waits.measurement(count)
    assert len(groups) == 2
    assert "2 of 3 groups" in missing


def test_a_measurement_of_nothing_ends_the_run(scene: Scene) -> None:
    count = measured(scene)
    with pytest.raises(DeadlineExceeded, match="0 of 3 groups"):
        scene.waits.measurement(count)


def test_a_whole_measurement_lacks_nothing(scene: Scene) -> None:
    count = measured(scene)
    scene.then(1.0, SOLVED, SOLVED, FLAT)
    groups, missing = scene.waits.measurement(count)
    assert (len(groups), missing) == (3, "")


def test_reasons_are_explained_where_they_are_known() -> None:
    assert reasons({"no_verdict": 2, "my_reason": 1}) == "2 no_verdict (no verifier could judge), 1 my_reason"


def test_the_first_worker_may_take_longer_to_start_than_a_batch_may_take(tmp_path: Path) -> None:
    clock = ManualClock()
    inbox = make_inbox(tmp_path / "groups.sqlite", clock=clock)
    waits = Waits(
        inbox,
        CONFIG,
        warn=Warner(tmp_path / "events.jsonl"),
        check=lambda: clock.advance(10.0),
        start_seconds=3 * LIMIT,
        clock=clock,
    )
    with pytest.raises(DeadlineExceeded, match=r"no rollout worker is connected.*Nothing moved for 300 s"):
        waits.batch()
    inbox.join("w", capacity=1)
    with pytest.raises(DeadlineExceeded, match=r"w holds 0 leases.*Nothing moved for 100 s"):
        waits.batch()


def test_a_worker_that_starts_is_waited_for_without_a_limit(tmp_path: Path) -> None:
    clock = ManualClock()
    inbox = make_inbox(tmp_path / "groups.sqlite", clock=clock)
    began = clock()
    waits = Waits(
        inbox,
        CONFIG,
        warn=Warner(tmp_path / "events.jsonl"),
        check=lambda: clock.advance(10.0),
        starting=lambda: ["w"] if clock() - began < 20 * LIMIT else [],
        clock=clock,
    )
    with pytest.raises(DeadlineExceeded, match=r"no rollout worker is connected.*Nothing moved for 100 s"):
        waits.batch()
    assert clock() - began >= 21 * LIMIT
