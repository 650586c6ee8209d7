"""Every metric that is declared is written in some run, and nothing is written that is not declared.

The runs are the quick start and one with a curriculum. A metric that neither of them can write needs a run here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rlserve.errors import UnknownName
from rlserve.observability.metrics import METRICS, PREFIXES, info

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def curriculum(new_module_run: Callable[[str], Any], small_run_arguments: Callable[[Any], Sequence[str]]) -> Any:
    """Two levels, the first of which is soon mastered; measured on the way."""
    run = new_module_run("curriculum")
    changes = [
        'environments.0.levels=["digits-3", "digits-4"]',
        "environments.0.window=4",
        "environments.0.raise_at=0.2",
        "rollout.group_size=4",
        "learner.groups_per_step=8",
        "learner.ess_warn=1.0",
        "evaluate.problems=20",
        "evaluate.every_steps=2",
        "evaluate.samples=2",
        "evaluate.keep_best=pass@2",
        "checkpoint.every_steps=0",
        "checkpoint.keep=1",
        "steps=5",
    ]
    run.start(*small_run_arguments(run), *(word for change in changes for word in ("--set", change)))
    assert run.wait(500) == 0, run.tail()
    return run


def test_a_curriculum_moves_on_and_is_measured(curriculum: Any) -> None:
    levels = [row["curriculum/arithmetic/level"] for row in curriculum.metrics()]
    assert (levels[-1], levels) == (1, sorted(levels))
    assert any("curriculum/arithmetic/pass_rate" in row for row in curriculum.metrics())
    assert [row["step"] for row in curriculum.measurements()] == [0, 2, 4, 5]
    assert curriculum.summary()["accuracy_after"] == curriculum.measurements()[-1]["evaluate/accuracy"]


def test_the_best_checkpoint_is_kept_beside_the_newest(curriculum: Any) -> None:
    values = {row["step"]: row["evaluate/pass@2"] for row in curriculum.measurements()}
    best = max(values, key=lambda step: (values[step], -step))
    found = curriculum.summary()["best"]
    assert (found["measure"], found["step"], found["value"]) == ("pass@2", best, values[best])
    kept = {path.name for path in (curriculum.root / "checkpoints").glob("step-*")}
    # The one that was the best before the last evaluation may still be there.
    assert kept >= {f"step-{step}" for step in {best, 5} - {0}} and len(kept) <= 2
    if best:
        assert (curriculum.root / "checkpoints" / "best").resolve().name == f"step-{best}"
    assert f"best pass@2 {values[best]:.3f} at step {best}" in curriculum.output.read_text()
    assert "<td>pass@2</td>" in (curriculum.root / "report.html").read_text()


def test_an_effective_sample_size_below_the_bound_is_warned_of_once_a_cause(curriculum: Any) -> None:
    (warning,) = [e for e in curriculum.events("warning") if e.get("cause") == "ess"]
    assert "learner.ess_warn = 1" in warning["message"]


def test_every_declared_metric_is_written_and_every_written_one_declared(curriculum: Any, quickstart: Any) -> None:
    written = {
        name
        for run in (curriculum, quickstart)
        for row in [*run.metrics(), *run.measurements()]
        for name in row
        if "/" in name
    }
    # No CPU's peak is known, and no model here has experts.
    assert set(METRICS) - written == {"learner/mfu", "learner/expert_load"}
    prefixes = {prefix for prefix in PREFIXES if any(n.startswith(prefix) and n not in METRICS for n in written)}
    assert prefixes == set(PREFIXES)
    for name in written:
        info(name)
    for run in (curriculum, quickstart):
        assert not [e for e in run.events("warning") if "is not declared" in e["message"]]
    with pytest.raises(UnknownName):
        info("surely/not-declared")
