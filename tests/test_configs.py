"""Every shipped configuration loads, and shows its plan without starting anything."""

from pathlib import Path

import pytest

from rlserve.cli.main import main
from rlserve.config.load import load_run

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.toml"))


def test_there_are_configurations_to_check() -> None:
    assert {"quickstart.toml", "gsm8k.toml", "gsm8k_qwen.toml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_shipped_configuration_loads_and_dry_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_run([path])
    # Most name files and models that are not in the repository.
    assert main(["run", str(path), "--dry-run", "--no-preflight"]) == 0
    printed = capsys.readouterr().out
    assert f'name = "{config.name}"' in printed
    assert printed.count("# rollout-") == config.rollout.workers
    assert printed.count("# learner") == config.learner.ranks
