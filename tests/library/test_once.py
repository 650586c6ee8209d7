"""Runs of ``eval`` and ``generate``: what they take of a run's configuration, and what they leave behind."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rlserve.config.load import load_run
from rlserve.config.tables.evaluate import EvaluateConfig
from rlserve.errors import InvalidRequest
from rlserve.library.measure import ONCE, evaluation_config, ran_once, sampling_config
from rlserve.weight_sync.own_directory import OwnDirectory

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"
RUN = load_run(
    [QUICK],
    [
        "evaluate.samples=8",
        "evaluate.k=[4, 8]",
        "evaluate.keep_best=pass@8",
        "evaluate.patience=3",
        'evaluate.sets=[{ name = "hard", environment = "arithmetic", problems = 7 }]',
        'trackers=[{ type = "wandb" }]',
    ],
)


def test_an_evaluation_measures_as_the_run_does_unless_it_is_asked_otherwise() -> None:
    config = evaluation_config(RUN, "/model", "/tmp")
    assert (config.steps, config.model.path, config.trackers) == (0, "/model", ())
    assert config.evaluate == RUN.evaluate.model_copy(update={"keep_best": "", "patience": 0})
    fewer = evaluation_config(RUN, "/model", "/tmp", problems=5, samples=2, temperature=0.0)
    assert (fewer.evaluate.problems, fewer.evaluate.sizes, fewer.evaluate.temperature) == (5, (2,), 0.0)


def test_generating_asks_for_the_mixture_alone() -> None:
    config = sampling_config(RUN, "/model", "/tmp", problems=10, samples=1, temperature=1.0, held_out=False)
    assert (config.evaluate.problems, config.evaluate.samples, config.evaluate.sets) == (10, 1, ())
    assert config.evaluate.from_training and not config.trackers


OWNER = """
import os, sys, tempfile
from pathlib import Path
from rlserve.library.measure import ran_once
def make(directory):
    run = Path(directory, "eval", "logs")
    run.mkdir(parents=True)
    (run / "hub.log").write_text("a log")
    print(directory, flush=True)
    os.kill(os.getpid(), 9)
with ran_once(make):
    pass
"""


def test_the_next_measurement_removes_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", OWNER], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    left = Path(killed.stdout.strip())
    assert killed.returncode == -9 and (left / "eval" / "logs" / "hub.log").exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = OwnDirectory.below(tmp_path, ONCE)
    nothing = RUN.model_copy(update={"evaluate": EvaluateConfig(problems=0)})
    with (
        pytest.raises(InvalidRequest, match="nothing would be measured"),
        ran_once(lambda directory: evaluation_config(nothing, "/model", directory)),
    ):
        pass
    assert list(tmp_path.iterdir()) == [living.path]
    living.close()
