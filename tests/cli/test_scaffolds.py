"""What ``new`` writes works as it is: its own tests pass, and an environment passes the conformance suite."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from rlserve import plugins
from rlserve.actors.environment.conformance.site import plugin_site
from rlserve.actors.environment.conformance.suite import State, run_suite
from rlserve.cli.main import main
from rlserve.config.tables.environment import EnvironmentConfig

FORMS = {
    "my_dice": ["env", "new"],
    "my_game": ["env", "new", "--multi-turn"],
    "my_shop": ["env", "new", "--tools"],
    "my_words": ["verifier", "new"],
    "my_judge": ["verifier", "new", "--judge"],
    "my_reward": ["verifier", "new", "--function"],
}


def write(name: str, folder: Path) -> Path:
    target = folder / name
    assert main([*FORMS[name], name, "--directory", str(target)]) == 0
    return target


def test_each_written_form_passes_its_own_tests(tmp_path: Path) -> None:
    """As a user runs them, but all at once: Python starts once."""
    for name in FORMS:
        target = write(name, tmp_path)
        for path in target.iterdir():
            assert "{name}" not in path.read_text() and "{class_name}" not in path.read_text(), path
        package = target / "pyproject.toml"
        assert package.exists() is (name != "my_reward")
        if package.exists():
            assert f'{name} = "rlserve_{name}:My' in package.read_text()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FORMS]
    tested = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert "passed" in tested.stdout and "skipped" not in tested.stdout


@pytest.mark.parametrize("name", ["my_game", "my_shop"])
async def test_written_episodes_keep_every_promise(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(write(name, tmp_path)))
    module = importlib.import_module(f"rlserve_{name}")
    kind = getattr(module, "".join(part.title() for part in name.split("_")) + "Environment")
    monkeypatch.setattr(plugins, "load", lambda group, name, **_: kind)
    async with plugin_site(EnvironmentConfig(name=name), {}) as site:
        findings = {finding.check: finding for finding in await run_suite(site)}
    assert [f for f in findings.values() if f.state is State.FAILED] == []
    assert findings["seeds_differ"].state is State.OK
    assert (findings["tool_calls_are_answered"].state is State.OK) is (name == "my_shop")


def test_a_written_function_rewards_tasks_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = write("my_reward", tmp_path)
    options = {"path": str(tmp_path / "tasks.jsonl"), "verifier": "exact"}
    (tmp_path / "tasks.jsonl").write_text("".join(f'{{"prompt": "{n}+0=", "answer": "{n}"}}\n' for n in range(40)))
    words = [f"environments.0.options.{key}={value}" for key, value in options.items()]
    words += ["environments.0.name=dataset", "environments.0.options.test_fraction=0.2", f"directory={tmp_path}"]
    words += [f"reward={target}/my_reward.py:my_reward"]
    arguments = [word for override in words for word in ("--set", override)]
    assert main(["run", "configs/quickstart.toml", "--dry-run", *arguments]) == 0, capsys.readouterr()


def test_the_written_environment_passes_the_conformance_suite(tmp_path: Path) -> None:
    target = tmp_path / "made"
    assert main(["env", "new", "dice", "--directory", str(target)]) == 0
    info = target / "rlserve_dice-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rlserve-dice\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[rlserve.environments]\ndice = rlserve_dice:DiceEnvironment\n")
    checked = subprocess.run(
        [sys.executable, "-m", "rlserve.cli.main", "env", "check", "dice"],
        env={"PYTHONPATH": str(target), "PATH": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr[-2000:]
    assert " 0 broken" in checked.stdout


def test_a_bad_name_or_a_directory_that_is_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verifier", "new", "Bad-Name", "--directory", str(tmp_path / "x")]) == 1
    assert main(["verifier", "new", "good", "--directory", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "name: is 'Bad-Name'" in error
    assert "exists already" in error
    assert main(["verifier", "new", "exact", "--directory", str(tmp_path / "y")]) == 1
    assert "name: 'exact' is already registered here" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_every_installed_verifier_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verifier", "list"]) == 0
    listed = capsys.readouterr().out
    for name in (
        "code",
        "exact",
        "format",
        "judge",
        "json_schema",
        "length",
        "math",
        "regex",
        "reward_model",
        "rubric",
    ):
        assert f"\n{name} " in "\n" + listed
