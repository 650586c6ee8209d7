"""What the command line prints about configurations and starts, over inputs that public reports brought."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlserve.cli.main import main
from rlserve.config.load import load_run, to_toml
from rlserve.config.paths import RunPaths
from rlserve.launch.directory import claimed
from tests.support.models.paper_model import POSITIONS, write_model
from tests.support.reported import cases

KINDS = (
    "configuration-names-unchecked",
    "model-limits-unchecked",
    "start-checkpoint-errors",
    "refused-resume-writes",
)
QUICK = str(Path(__file__).parents[2] / "configs" / "quickstart.toml")


def change_of(case: Mapping[str, Any], tmp_path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The arguments of a case, and words that a right answer has."""
    given, start = case["input"], ["--unset", "pretrain", "--unset", "sft"]
    if "model.path" in given or "config.json" in given:
        path = write_model(tmp_path / "model")
        if "config.json" in given:
            kind = given["config.json"].removeprefix("model_type ")
            write_model(path, model_type=kind)
            return [*start, "--set", f"model.path={path}"], ("model.path", kind)
        (path / "config.json").unlink()
        (path / "adapter_config.json").write_text("{}")
        return [*start, "--set", f"model.path={path}"], ("LoRA adapter", "merge it first")
    if "path to no file" in given["set"]:
        environment = '{ name = "dataset", options = { path = "/no/file.jsonl" } }'
        return ["--set", f"environments=[{environment}]"], ("environments.0.options.path", "/no/file.jsonl")
    if "positions" in given["how"]:
        path = write_model(tmp_path / "model", max_position_embeddings=64)
        sets = [part for change in given["set"].split(", ") for part in ("--set", change)]
        return [*start, "--set", f"model.path={path}", *sets], ("4096", str(POSITIONS))
    key, _, value = given["set"].partition("=")
    more = start if key == "model.path" else []
    return [*more, "--set", given["set"]], (key, value, "grpo" if key == "algorithm.type" else "")


@pytest.mark.parametrize("case", cases(*KINDS[:3]))
def test_a_start_that_cannot_work_is_refused_before_anything_starts(
    case: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, words = change_of(case, tmp_path)
    where = ["--set", f"directory={tmp_path / 'runs'}"]
    assert main(["run", QUICK, *where, *changes, *(["--dry-run"] if "--dry-run" in case["input"]["how"] else [])]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said and "--resume" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", cases(KINDS[3]))
def test_a_resume_that_is_refused_leaves_the_live_run_alone(
    case: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = RunPaths(tmp_path / "runs" / "x")
    with claimed(paths, resume=False, overwrite=False):
        config = load_run([QUICK], ["name=x", f"directory={tmp_path / 'runs'}"])
        paths.config.write_text(to_toml(config))
        arguments = case["input"]["how"].split("rlserve ")[1].split(" while ")[0].split()
        assert main([argument.replace("runs/x", str(paths.root)) for argument in arguments]) == 1
        assert "another launcher" in capsys.readouterr().err
        assert paths.config.read_text() == to_toml(config)
        assert json.dumps(sorted(path.name for path in paths.root.iterdir())) == '["config.toml", "launcher.lock"]'
