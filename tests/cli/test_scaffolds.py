"""What ``new`` writes works as it is: its own tests pass, and an environment passes the conformance suite."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlserve.cli.main import main


@pytest.mark.parametrize("kind", ["verifier", "env"])
def test_the_written_package_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    assert main([kind, "new", "my_thing", "--directory", str(target)]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(target)]
    tested = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout[-2000:]
    pyproject = (target / "pyproject.toml").read_text()
    assert 'my_thing = "rlserve_my_thing:MyThing' in pyproject
    assert "{" not in pyproject


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
