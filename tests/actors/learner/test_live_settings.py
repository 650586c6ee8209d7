"""Settings of a running run: which may change, how the learner takes them, and where they are afterwards."""

from pathlib import Path

import pytest

from rlserve.actors.learner.live_settings import LiveSettings
from rlserve.cli.main import main
from rlserve.config.live import LIVE, parsed
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.errors import ConfigError
from rlserve.launch.directory import keep_live, write_config
from rlserve.observability.events import read_json_lines
from rlserve.observability.summary import write_json
from rlserve.observability.warner import Warner
from tests.test_promises import known_key

QUICK = Path(__file__).parents[3] / "configs" / "quickstart.toml"
START = load_run([QUICK], ["learner.lr=1e-3", "learner.schedule=linear", "learner.warmup_steps=0", "steps=9"])


def test_every_live_key_exists() -> None:
    assert all(known_key(key) for key in LIVE)


def test_the_learner_takes_what_is_set_and_goes_on_otherwise(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    live = LiveSettings(START, paths.live, Warner(paths.events))
    assert live.look() == {} and live.rate(0) == pytest.approx(9e-4)
    write_json(paths.live, parsed(["learner.lr=1e-2", "steps=19"]))
    assert live.look() == {"learner.lr": (1e-3, 1e-2), "steps": (9, 19)}
    assert live.look() == {}
    assert (live.config.steps, live.rate(9)) == (19, pytest.approx(5e-3))  # the line now ends at step 20
    write_json(paths.live, {"learner.lr": -1})
    assert live.look() == {} and live.config.learner.lr == 1e-2
    (warning,) = read_json_lines(paths.events)
    assert "rlserve set: learner.lr: is -1" in warning["message"] and "goes on as it was" in warning["message"]
    paths.live.write_text("{")
    assert live.look() == {}
    write_json(paths.live, {"steps": 19})
    assert live.look() == {"learner.lr": (1e-2, 1e-3)}


def test_what_was_set_is_in_the_configuration_of_a_resume(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    write_config(START, paths)
    assert keep_live(START, paths) == START
    write_json(paths.live, {"learner.lr": 1e-2})
    assert keep_live(START, paths).learner.lr == 1e-2
    assert load_run([paths.config]).learner.lr == 1e-2 and not paths.live.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("learner.max_lag=3", "learner.max_lag: cannot change while a run goes on"),
        ("learner.lrr=3", "did you mean 'learner.lr'?"),
        ("learner.lr", "is not KEY=VALUE"),
    ],
)
def test_a_key_that_cannot_change_is_refused_with_what_can(change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as refused:
        parsed([change])
    assert words in str(refused.value)


def test_a_run_that_is_not_running_is_continued_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = RunPaths(tmp_path)
    write_config(START, paths)
    assert main(["set", str(tmp_path), "learner.lr=1e-5"]) == 1
    said = capsys.readouterr().err
    assert f"is not running; continue it with rlserve run --resume {tmp_path} --set learner.lr=1e-5" in said
    paths.hub_address.write_text("127.0.0.1:9")  # of a launcher that was killed
    assert main(["set", str(tmp_path), "learner.lr=1e-5"]) == 1
    assert "is not running" in capsys.readouterr().err
    assert not paths.live.exists()
