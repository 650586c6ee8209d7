"""The command line over real runs: faults that end a run at once, stops that end in time, commands on what is left."""

import json
import math
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlserve.trackers.mlflow import ALLOW_FILES
from tests.support.tracked import READERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
QUICK = "configs/quickstart.toml"


def rlserve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlserve.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)


def test_an_actor_that_cannot_work_as_configured_ends_the_run_and_is_told_once(new_run: Callable[[str], Any]) -> None:
    run = new_run("fault")
    where = ["--set", f"directory={run.root.parent}", "--set", "name=fault"]
    run.start(QUICK, "--no-preflight", *where, "--set", 'environments=[{ name = "gsm9k" }]')
    assert run.wait(120) == 1
    said = run.output.read_text()
    assert said.count("did you mean 'gsm8k'?") == 1
    assert "fault of the configuration" in said
    assert "restart" not in said and "--resume" not in said and "Traceback" not in said
    assert [(e["actor"], e["how"]) for e in run.events("actor_died")] == [("environment-0", "exit code 78")]
    assert not run.events("actor_restarted")
    assert (run.root / "report.html").exists()
    run.wait_until_nothing_runs()


def test_a_stop_waits_for_nobody_longer_than_it_says(new_run: Callable[[str], Any]) -> None:
    run = new_run("stopped")
    where = ["--set", f"directory={run.root.parent}", "--set", "name=stopped"]
    run.start(QUICK, *where, "--set", "launch.stop_seconds=3")
    run.wait_until("the environment server", lambda: _serves(run, "environment-0"), 120)
    frozen = run.pid_of("environment-0")
    os.kill(frozen, signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    said = run.output.read_text()
    assert "environment-0: did not stop in 3 s (launch.stop_seconds); killed" in said
    assert f"rlserve run --resume {run.root}" in said
    assert (run.root / "report.html").exists()
    run.wait_until_nothing_runs()


def test_a_second_interrupt_does_not_wait(new_run: Callable[[str], Any]) -> None:
    run = new_run("hurried")
    where = ["--set", f"directory={run.root.parent}", "--set", "name=hurried"]
    run.start(QUICK, *where, "--set", "launch.stop_seconds=600")
    run.wait_until("the environment server", lambda: _serves(run, "environment-0"), 120)
    os.kill(run.pid_of("environment-0"), signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    run.wait_until("the stop", lambda: "press Ctrl-C again to kill them" in run.output.read_text(), 60)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    run.wait_until_nothing_runs()


def _serves(run: Any, actor: str) -> bool:
    log = run.root / "logs" / f"{actor}.log"
    return log.exists() and "serves at" in log.read_text()


def test_an_actor_with_another_configuration_says_so_and_ends_the_run(new_run: Callable[[str], Any]) -> None:
    run = new_run("changed")
    where = ["--set", f"directory={run.root.parent}", "--set", "name=changed"]
    run.start(QUICK, *where)
    run.wait_until("the environment server", lambda: _serves(run, "environment-0"), 120)
    config = run.root / "config.toml"
    config.write_text(config.read_text().replace("steps = 20", "steps = 99", 1))
    os.kill(run.pid_of("environment-0"), signal.SIGKILL)
    assert run.wait(120) == 1
    assert "was changed while the run goes on" in run.output.read_text()


def test_a_finished_run_is_left_as_it_is(quickstart: Any) -> None:
    kept = [quickstart.root / name for name in ("summary.json", "samples.jsonl", "config.toml", "metrics.jsonl")]
    before = [path.read_bytes() for path in kept]
    resumed = rlserve("run", "--resume", str(quickstart.root))
    assert resumed.returncode == 0 and "is finished" in resumed.stdout
    assert [path.read_bytes() for path in kept] == before
    status = rlserve("status", str(quickstart.root))
    assert status.returncode == 0 and "finished at step" in status.stdout and "held-out accuracy" in status.stdout
    assert json.loads(rlserve("status", str(quickstart.root), "--json").stdout)["ended"] == "finished"
    report = rlserve("report", str(quickstart.root))
    assert report.returncode == 0 and (quickstart.root / "report.html").read_text().count("<svg") > 10


def test_eval_of_a_checkpoint_is_json_alone(quickstart: Any) -> None:
    newest = max((quickstart.root / "checkpoints").glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
    found = rlserve("eval", str(newest), "--problems", "20", "--json")
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert 0.5 < result["accuracy"] <= 1 and result["problems"] == 20
    assert "rlserve-eval-" not in found.stderr and "->" not in found.stderr


def test_a_model_answers_in_the_terminal(quickstart: Any) -> None:
    asked = rlserve("chat", str(quickstart.root), "--say", "3+8+5=", "--temperature", "0", "--max-new-tokens", "16")
    assert asked.returncode == 0 and asked.stdout.strip().endswith("#6"), asked.stderr


def test_a_run_that_goes_on_adds_to_what_it_did(
    new_run: Callable[[str], Any],
    small_run_arguments: Callable[[Any], Sequence[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # For the reader in this process; without it MLflow refuses a store of files.
    monkeypatch.setenv(ALLOW_FILES, "true")
    run = new_run("twice")
    trackers = ", ".join(f'{{ type = "{kind}" }}' for kind in ("mlflow", "tensorboard", "trackio", "wandb"))
    trackers = trackers.replace('"wandb"', '"wandb", options = { mode = "offline" }')
    trackers = trackers.replace('"trackio"', f'"trackio", options = {{ directory = "{run.root.parent / "trackio"}" }}')
    sets = ("steps=500", "learner.warmup_steps=0", "learner.schedule=cosine", f"trackers=[{trackers}]")
    run.start(*small_run_arguments(run), *(word for change in sets for word in ("--set", change)))
    run.wait_for_step(1)
    # Ends it: two steps are made by then.
    asked = rlserve("set", str(run.root), "learner.lr=3e-4", "steps=2", "learner.ess_warn=0.5")
    assert asked.returncode == 0 and "learner.lr: " in asked.stdout and "-> 0.0003, from step" in asked.stdout
    assert run.wait(280) == 0, run.tail()
    first, config = run.summary(), tomllib.loads((run.root / "config.toml").read_text())
    made = first["steps"]
    assert (config["steps"], config["learner"]["lr"]) == (2, 3e-4) and not (run.root / "live.json").exists()
    (changed,) = run.events("set")
    assert changed["keys"] == ["learner.ess_warn", "learner.lr", "steps"] and changed["step"] <= made
    assert f"model   {run.root / 'checkpoints' / f'step-{made}'}" in run.output.read_text()
    run.start("--resume", str(run.root), "--set", f"steps={made + 1}")
    assert run.wait(280) == 0, run.tail()
    second = run.summary()
    assert second["steps"] == made + 1
    # The last step of a cosine over steps 0 to made + 2.
    last = 1.5e-4 * (1 + math.cos(math.pi * (made + 1) / (made + 2)))
    assert run.metrics()[-1]["learner/lr"] == pytest.approx(last)
    # The last swap of a life may not be confirmed any more when it ends.
    assert second["weight_updates"] >= first["weight_updates"] >= 1
    assert second["wall_seconds"]["total"] > first["wall_seconds"]["total"]
    assert f"step {made}/{made + 1}" in run.output.read_text()
    _tracked(run, made + 1)


def _tracked(run: Any, steps: int) -> None:
    """Each tracker has one run with the steps of both lives."""
    place = run.root.parent / "trackio"
    places = {
        "mlflow": run.root.parent / "mlruns",
        "tensorboard": run.root / "tensorboard",
        "trackio": place,
        "wandb": run.root,
    }
    for kind, reader in READERS.items():
        kept = reader(places[kind], "twice")
        assert kept.runs == 1 and [step for step, _ in kept.curves["learner/lr"]] == list(range(1, steps + 1)), kind
        assert kept.config["algorithm.type"] == "grpo" and float(kept.result["steps"]) == steps, kind
