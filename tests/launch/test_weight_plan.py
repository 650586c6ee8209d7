"""What a dry run says about the room that weights take."""

from pathlib import Path

import pytest

from rlserve.cli.main import main
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.launch.weight_plan import weight_plan

ROOT = Path(__file__).parents[2]


def test_the_plan_names_need_and_place(tmp_path: Path) -> None:
    config = load_run([ROOT / "configs" / "quickstart.toml"])
    paths = RunPaths(tmp_path / "run")
    assert "3 x their size in" in weight_plan(config, paths)
    model = tmp_path / "model"
    model.mkdir()
    given = config.model_copy(update={"model": config.model.model_copy(update={"path": str(model)})})
    with open(model / "model.safetensors", "wb") as file:
        file.truncate(2**20)
    assert weight_plan(given, paths, shared=tmp_path).startswith(
        f"weights: 3 x 0.00 GiB (as the checkpoint has them) in {tmp_path} ("
    )
    with open(model / "model.safetensors", "r+b") as file:
        file.truncate(2**42)
    large = weight_plan(given, paths, shared=tmp_path)
    assert f"in {paths.root}" in large and "is too small; in a container give it --shm-size" in large


def test_a_dry_run_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(ROOT / "configs" / "quickstart.toml"), "--dry-run", "--set", f"directory={tmp_path}"])
    assert "# weights: 3 x their size in /dev/shm" in capsys.readouterr().out
