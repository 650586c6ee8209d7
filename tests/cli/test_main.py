"""The command line: instant help, clear errors, dry runs that start nothing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlserve.cli.main import COMMANDS, main

CONFIG = 'name = "t"\n[model]\npath = "m"\n[[environments]]\nname = "arithmetic"\n'


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rlserve.cli.main import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("command", [c.name for c in COMMANDS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: rlserve " + command in capsys.readouterr().out


def test_a_dry_run_prints_a_configuration_that_loads_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    assert main(["run", str(path), "--dry-run", "--no-preflight", "--set", f"directory={tmp_path / 'runs'}"]) == 0
    printed = capsys.readouterr().out
    assert tomllib.loads(printed)["learner"]["max_lag"] == 4
    assert "# rollout-0: " in printed
    assert not (tmp_path / "runs").exists()


def test_without_a_command_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: rlserve" in capsys.readouterr().out


def test_a_closed_pipe_is_no_traceback() -> None:
    command = (
        f"{sys.executable} -m rlserve.cli.main run --help | true; {sys.executable} -m rlserve.cli.main env list | true"
    )
    found = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=True, timeout=120)
    assert found.stderr == ""


def test_a_bad_configuration_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG + "[learner]\nlearning_rate = 1\n")
    assert main(["run", str(path)]) == 1
    assert "learner.learning_rate: unknown key" in capsys.readouterr().err


def test_an_earlier_run_is_never_overwritten_by_accident(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    (tmp_path / "runs" / "t").mkdir(parents=True)
    (tmp_path / "runs" / "t" / "precious.txt").write_text("keep")
    options = [str(path), "--set", f"directory={tmp_path / 'runs'}"]
    assert main(["run", *options]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["run", *options, "--overwrite"]) == 1
    assert "is no run" in capsys.readouterr().err
    assert (tmp_path / "runs" / "t" / "precious.txt").read_text() == "keep"


def test_doctor_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    printed = capsys.readouterr().out
    for part in ("python", "torch", "vllm", "gpus", "sandbox", "vllm's torch", "ports"):
        assert part in printed


@pytest.mark.parametrize(
    ("requirements", "unmet"),
    [
        (["numpy", "torch==2.13.0", "torchvision==0.28.0"], []),
        (["torch == 2.13.0+cu130 ; platform_machine == 'x86_64'"], []),
        (["torch==2.14.0", "numpy<2.0"], [("torch", "==2.14.0", "2.13.0"), ("numpy", "<2.0", "2.3.5")]),
        (["torch==2.14.0; extra == 'other'", "absent>=1"], []),
    ],
)
def test_the_doctor_knows_what_a_vllm_wants(requirements: list[str], unmet: list[tuple[str, str, str]]) -> None:
    from rlserve.cli import doctor

    installed = {"torch": "2.13.0+cpu", "numpy": "2.3.5"}
    assert list(doctor.unmet(requirements, lambda name: installed.get(name, ""))) == unmet


@pytest.mark.parametrize(
    ("driver", "build", "problem"),
    [
        ("580.159.04", "cu130", ""),
        ("570.86.10", "cu130", "570.86.10, but CUDA 13 of torch needs 580 or newer"),
        ("535.104.05", "cu128", ""),
        ("470.57.02", "cu128", "470.57.02, but CUDA 12 of torch needs 525 or newer"),
        ("535.104.05", "cpu", ""),
        ("", "cu130", ""),
    ],
)
def test_the_doctor_knows_which_driver_a_torch_wants(driver: str, build: str, problem: str) -> None:
    from rlserve.cli.doctor import driver_problem

    assert driver_problem(driver, build) == problem


def test_the_doctor_asks_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlserve.cli.doctor import State, check_driver

    monkeypatch.setenv("PATH", str(tmp_path))
    assert not list(check_driver())
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.159.04\n")
    tool.chmod(0o755)
    (finding,) = check_driver()
    assert finding.state is State.OK and finding.found.startswith("580.159.04, new enough for torch")
