"""A run's directory: one launcher at a time, and what is refused changes nothing."""

import json
from pathlib import Path

import pytest

from rlserve.cli.main import main
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest
from rlserve.launch.directory import (
    LOCK,
    Inputs,
    claimed,
    clear,
    full_disk,
    is_finished,
    relabel_samples,
    write_config,
    written,
)
from rlserve.observability.events import EventLog
from rlserve.store.binding import RunFacts, bind
from rlserve.store.sqlite import SqliteStore
from tests.support.tiny_disk import fill, tiny_disk

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"


@pytest.fixture
def made(tmp_path: Path) -> RunPaths:
    """A run that was made and ended."""
    paths = RunPaths(tmp_path / "runs" / "quickstart")
    with claimed(paths, resume=False, overwrite=False):
        config = load_run([QUICK], [f"directory={tmp_path / 'runs'}"])
        write_config(config, paths)
        store = SqliteStore(paths.store)
        list(bind(store, RunFacts.of(config)))
        store.close()
    return paths


def contents(root: Path) -> dict[str, bytes]:
    """Files by name; what SQLite keeps beside an open file is no content."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--resume", "{run}", "--set", "steps=99", "--set", "learner.lr=1e-3"],
        ["{config}", "--overwrite", "--set", "directory={runs}"],
        ["{config}", "--set", "directory={runs}"],
    ],
)
def test_a_second_launcher_changes_nothing(
    arguments: list[str], made: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": made.root, "runs": made.root.parent, "config": QUICK}
    before = contents(made.root)
    with claimed(made, resume=True, overwrite=False):
        assert main(["run", *(argument.format(**places) for argument in arguments)]) == 1
    said = capsys.readouterr().err
    assert "another launcher" in said or "exists already" in said
    assert contents(made.root) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=7", "seed: is 7, but this run began with 0"),
        ("name=other", "name: is 'other', but this run began as 'quickstart'"),
        ("algorithm.type=dpo", "algorithm.type: would become 'dpo'"),
        ("pretrain.stage.steps=1", "pretrain: would change"),
        ("rollout.max_new_tokens=99", "rollout.max_new_tokens: is 99"),
        ("algorithm.clip_high=-1", "algorithm.clip_high: is -1"),
        ("environments.0.options={ nope = 1 }", "environments.0.options.nope: is not an option"),
    ],
)
def test_a_resume_that_is_refused_changes_nothing(
    change: str, words: str, made: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(made.root)
    assert main(["run", "--resume", str(made.root), "--set", change]) == 1
    assert words in capsys.readouterr().err
    assert contents(made.root) == before


def test_what_may_change_does(made: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "learner.lr=1e-3", "--set", "steps=99", "--unset", "stop_reward", "--dry-run"]
    assert main(["run", "--resume", str(made.root), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "lr = 0.001" in printed and "steps = 99" in printed and "stop_reward" not in printed


def test_an_overwrite_that_is_refused_deletes_nothing(made: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(made.root)
    where = ["--set", f"directory={made.root.parent}"]
    assert main(["run", str(QUICK), "--overwrite", *where, "--set", "algorithm.type=grp0"]) == 1
    assert "did you mean 'grpo'?" in capsys.readouterr().err
    assert contents(made.root) == before


def test_clearing_keeps_the_lock_alone(made: RunPaths) -> None:
    (made.root / "logs").mkdir()
    (made.root / "link").symlink_to(made.root.parent)
    clear(made)
    assert [path.name for path in made.root.iterdir()] == [LOCK]


def test_a_claim_that_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(RunPaths(tmp_path / "a" / "b"), resume=False, overwrite=False):
        assert (tmp_path / "a" / "b" / LOCK).exists()
        1 / 0  # noqa: B018
    assert not (tmp_path / "a").exists()


def test_inputs_of_a_refused_start_are_gone_and_those_of_an_earlier_run_stay(made: RunPaths, tmp_path: Path) -> None:
    new = RunPaths(tmp_path / "new" / "run")
    inputs: Inputs = {"f-1.py": lambda path: _note(path.write_text("f = 1"))}
    with pytest.raises(ZeroDivisionError), claimed(new, resume=False, overwrite=False), written(new, inputs):
        assert (new.inputs / "f-1.py").read_text() == "f = 1"
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    made.inputs.mkdir()
    (made.inputs / "f-1.py").write_text("of the earlier run")
    with pytest.raises(ZeroDivisionError), written(made, inputs):
        raise ZeroDivisionError
    assert (made.inputs / "f-1.py").read_text() == "of the earlier run"
    (made.inputs / "g-2.py").write_text("nothing of the new one")
    clear(made, keep=inputs)
    assert [path.name for path in made.inputs.iterdir()] == ["f-1.py"] and not made.config.exists()


def _note(_: object) -> None:
    """Drop the number of characters."""


def test_a_claim_is_exclusive(made: RunPaths) -> None:
    with (
        claimed(made, resume=True, overwrite=False),
        pytest.raises(InvalidRequest, match="another launcher"),
        claimed(made, resume=True, overwrite=False),
    ):
        pass
    with claimed(made, resume=True, overwrite=False):
        pass


def test_a_finished_run_has_nothing_to_do(made: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    made.summary.write_text(json.dumps({"steps": 20, "accuracy_before": 0.5, "accuracy_after": 0.75}))
    before = contents(made.root)
    assert main(["run", "--resume", str(made.root)]) == 0
    printed = capsys.readouterr().out
    assert "is finished: 20 of 20 steps; nothing was changed" in printed
    assert "held-out accuracy 0.500 -> 0.750" in printed
    assert contents(made.root) == before


def test_a_run_that_ended_early_by_its_own_rule_is_finished_until_the_rule_changes(made: RunPaths) -> None:
    made.summary.write_text(json.dumps({"steps": 14}))
    config = load_run([made.config])
    assert not is_finished(config, made)
    events = EventLog(made.events)
    events.write("run_started")
    events.write("run_ended", how="finished")
    assert is_finished(config, made)
    assert not is_finished(load_run([made.config], unset=["stop_reward"]), made)
    events.write("run_started")
    assert not is_finished(config, made)


def test_samples_of_an_earlier_end_are_named_by_their_step(made: RunPaths) -> None:
    made.samples.write_text('{"when": "before"}\n{"when": "after"}\n{"when": "at-5"}\n')
    made.summary.write_text('{"steps": 14}')
    relabel_samples(made)
    found = [json.loads(line)["when"] for line in made.samples.read_text().splitlines()]
    assert found == ["before", "at-14", "at-5"]


def test_a_full_disk_is_said_in_words_and_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tiny_disk(tmp_path / "disk", megabytes=4) as disk:
        paths = RunPaths(disk / "quickstart")
        with claimed(paths, resume=False, overwrite=False):
            write_config(load_run([QUICK], [f"directory={disk}"]), paths)
        before = paths.config.read_bytes()
        assert full_disk(paths.root) == ""
        filler = fill(disk)
        assert main(["run", "--resume", str(paths.root), "--no-preflight"]) == 1
        said = capsys.readouterr().err
        assert "is on a disk that is full; make room and run the same command again" in said
        assert "Traceback" not in said and paths.config.read_bytes() == before
        assert full_disk(paths.root) == f"The disk of {paths.root} is full (0 bytes left): make room first"
        filler.unlink()
        assert full_disk(paths.root) == ""
