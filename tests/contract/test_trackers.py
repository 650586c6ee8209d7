"""Every tracker keeps a run's curves, configuration, samples and result, and goes on with them after a resume.

A tracker joins by its name in ``OPTIONS`` and ``READERS``; its own library reads back what it kept.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.events import read_json_lines
from rlserve.observability.warner import Warner
from rlserve.trackers import feed as feeds
from rlserve.trackers.base import COLUMNS, TrackedRun
from rlserve.trackers.feed import Feed, without_secrets
from rlserve.trackers.registry import TRACKERS, tracker_problems
from tests.support.tracked import READERS, Kept

Options = Callable[[Path], dict[str, Any]]
OPTIONS: dict[str, Options] = {
    "mlflow": lambda place: {"uri": place.as_uri()},
    "tensorboard": lambda place: {"directory": str(place.parent)},
    "trackio": lambda place: {"directory": str(place)},
    "wandb": lambda place: {"mode": "offline", "directory": str(place)},
}
DIRECTORY = {"mlflow": "uri", "tensorboard": "directory", "trackio": "directory", "wandb": "directory"}
ROW = dict.fromkeys(COLUMNS, "x") | {"prompt": "1+1=\nthen | <b>", "reward": 0.5, "right": True, "reason": None}
NO_VERDICT = ROW | {"reward": None}


def configured(root: Path, *tables: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "mine",
            "directory": str(root),
            "model": {"path": "m"},
            "environments": [{"name": "arithmetic"}],
            "verifier": {"options": {"judge": {"api_key": "sk-hidden", "url": "http://j/v1"}}},
            "trackers": list(tables),
        }
    )


def test_every_tracker_is_in_this_suite() -> None:
    assert set(TRACKERS) == set(OPTIONS) == set(READERS) == set(DIRECTORY)


@pytest.fixture(scope="module", params=sorted(TRACKERS))
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """What is there after two lives, the first of which was killed two steps after its checkpoint."""
    kind, root = request.param, tmp_path_factory.mktemp(request.param)
    place = root / "mine" / "kept" / "mine"
    place.mkdir(parents=True)
    if kind == "trackio":  # its directory is read once in a process, when it is imported
        from trackio import sqlite_storage

        with patch.object(sqlite_storage, "TRACKIO_DIR", place):
            return _two_lives(kind, root, place)
    return _two_lives(kind, root, place)


def _two_lives(kind: str, root: Path, place: Path) -> Kept:
    config = configured(root, {"type": kind, "options": OPTIONS[kind](place)})
    paths = RunPaths(root / "mine")
    warn = Warner(paths.events)
    assert not list(tracker_problems(config, 0, paths.root))
    first = Feed(config, paths, step=0, warn=warn)
    first.scalars(0, {"evaluate/accuracy": 0.25, "evaluate/pass@4": 0.5})
    first.table(0, "samples", [ROW])
    for step in (1, 2, 3, 4):
        first.scalars(step, {"learner/loss": step / 8, "learner/lr": float("nan")})
    first.close()
    second = Feed(config, paths, step=2, warn=warn)
    for step in (3, 4, 5):
        second.scalars(step, {"learner/loss": step / 4})
    second.scalars(5, {"evaluate/accuracy": 0.75})
    second.table(5, "samples", [ROW, NO_VERDICT])
    second.result({"steps": 5, "accuracy_after": 0.75, "lag": {"max": 3}, "evaluations": None})
    second.close()
    assert not list(read_json_lines(paths.events))
    return READERS[kind](place, "mine")


def test_curves_go_on_in_the_same_run(kept: Kept) -> None:
    assert kept.runs == 1
    assert kept.curves["evaluate/accuracy"] == [(0, 0.25), (5, 0.75)]
    assert kept.curves["evaluate/pass@4"] == [(0, 0.5)]
    # By the last value of a step, where the tracker keeps what the killed life wrote beyond the checkpoint.
    assert dict(kept.curves["learner/loss"]) == {1: 0.125, 2: 0.25, 3: 0.75, 4: 1.0, 5: 1.25}
    assert "learner/lr" not in kept.curves


def test_the_configuration_is_there_without_secrets(kept: Kept) -> None:
    assert float(kept.config["learner.lr"]) == 1e-6
    assert kept.config["verifier.options.judge.url"] == "http://j/v1"
    assert kept.config["verifier.options.judge.api_key"] == "***"


def test_samples_are_a_table(kept: Kept) -> None:
    rows = kept.tables["samples"]
    reward, prompt = COLUMNS.index("reward"), COLUMNS.index("prompt")
    assert [row[reward].strip() for row in rows] == ["0.5", ""]
    assert "1+1=" in rows[0][prompt] and "then" in rows[0][prompt]


def test_the_result_is_there(kept: Kept) -> None:
    assert float(kept.result["accuracy_after"]) == 0.75 and float(kept.result["lag.max"]) == 3


@pytest.mark.parametrize("kind", sorted(TRACKERS))
def test_a_directory_that_cannot_be_written_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "inside")
    told = list(
        tracker_problems(configured(tmp_path, {"type": kind, "options": _at(kind, place)}), 0, tmp_path / "mine")
    )
    assert len(told) == 1 and told[0].startswith(f"trackers.0.options.{DIRECTORY[kind]}: "), told
    assert "is no directory" in told[0]


@pytest.mark.parametrize("kind", sorted(TRACKERS))
def test_a_package_that_is_missing_is_named_with_its_extra(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = list(tracker_problems(configured(tmp_path, {"type": kind}), 0, tmp_path / "mine"))
    assert told == [
        f"trackers.0.type: {kind!r} needs the package {kind!r}, which is not installed; pip install 'rlserve[{kind}]'"
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"type": "wand"}, ("trackers.0.type: ", "did you mean 'wandb'?")),
        ({"type": "wandb", "options": {"projekt": "x"}}, ("trackers.0.options.projekt", "did you mean 'project'?")),
        ({"type": "wandb", "options": {"mode": "of"}}, ("trackers.0.options.mode: is 'of'; give online or offline",)),
        ({"type": "wandb", "options": {"project": 3}}, ("trackers.0.options.project: is 3; give a text",)),
        ({"type": "wandb"}, ("trackers.0.options.mode: is 'online'", "wandb login", "WANDB_API_KEY")),
        ({"type": "trackio", "options": {"space": "me/x"}}, ("trackers.0.options.space: is 'me/x'", "HF_TOKEN")),
        ({"type": "mlflow", "options": {"uri": "http://127.0.0.1:9"}}, ("trackers.0.options.uri: no MLflow server",)),
        ({"type": "mlflow", "options": {"uri": "sqlite:///x.db"}}, ("trackers.0.options.uri: ", "pip install mlflow")),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_work_is_told_before_anything_starts(
    table: dict[str, Any], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "HF_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    started = time.monotonic()
    told = list(tracker_problems(configured(tmp_path, table), 0, tmp_path / "mine"))
    assert time.monotonic() - started < 5
    assert len(told) == 1 and all(word in told[0] for word in words), told


class _Stuck:
    """A tracker that takes the first call and never returns, as a service that hangs."""

    identity = "stuck"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def scalars(self, step: int, values: dict[str, float]) -> None:
        time.sleep(self._seconds)

    table = result = scalars  # type: ignore[assignment]

    def close(self) -> None:
        return


class _Broken(_Stuck):
    def scalars(self, step: int, values: dict[str, float]) -> None:
        raise OSError("no space left")


def _feed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opened: Callable[[TrackedRun], Any]
) -> tuple[Feed, RunPaths]:
    class Plugged:
        def check(self, root: Path) -> None:
            return

        def open(self, run: TrackedRun) -> Any:
            return opened(run)

    monkeypatch.setattr(feeds, "tracker_of", lambda config, index: Plugged())
    paths = RunPaths(tmp_path)
    return Feed(configured(tmp_path, {"type": "odd"}), paths, step=0, warn=Warner(paths.events)), paths


def warnings(paths: RunPaths) -> list[str]:
    return [str(event["message"]) for event in read_json_lines(paths.events)]


def test_a_tracker_that_hangs_neither_slows_nor_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_WAITING", 3)
    feed, paths = _feed(monkeypatch, tmp_path, lambda run: _Stuck(20.0))
    started = time.monotonic()
    for step in range(50):
        feed.scalars(step, {"learner/loss": 1.0})
    feed.close(0.5)
    assert time.monotonic() - started < 5
    told = warnings(paths)
    assert "tracker odd: is slower than the run; what it lacks is in metrics.jsonl" in told
    assert "tracker odd: did not end in time and is left; what it lacks is in metrics.jsonl" in told


def test_a_tracker_that_fails_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, paths = _feed(monkeypatch, tmp_path, lambda run: _Broken(0))
    for step in range(9):
        feed.scalars(step, {"learner/loss": 1.0})
    feed.close()
    told = warnings(paths)
    assert len(told) == 1 and told[0].startswith("tracker odd: could not take a step: OSError: no space left")


def test_a_tracker_that_cannot_start_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: TrackedRun) -> Any:
        raise SystemExit("log in first")

    feed, paths = _feed(monkeypatch, tmp_path, refuse)
    for step in range(2 * feeds.MAX_WAITING):
        feed.scalars(step, {"learner/loss": 1.0})
    feed.close()
    told = warnings(paths)
    assert len(told) == 1 and "could not start: SystemExit: log in first" in told[0]


def test_secrets_are_blotted_out_at_any_depth() -> None:
    values = {"a": [{"hf_token": "t", "prompt_key": "q"}], "password": "p", "max_tokens": 3, "token": 5}
    assert without_secrets(values) == {
        "a": [{"hf_token": "***", "prompt_key": "q"}],
        "password": "***",
        "max_tokens": 3,
        "token": 5,
    }


def _at(kind: str, place: str) -> dict[str, Any]:
    options = {DIRECTORY[kind]: place}
    return options | ({"mode": "offline"} if kind == "wandb" else {})
