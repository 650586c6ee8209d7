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
    ("requirements", "wanted"),
    [
        (["numpy", "torch==2.13.0", "torchvision==0.28.0"], "2.13.0"),
        (["torch == 2.13.0+cpu ; platform_machine == 'x86_64'"], "2.13.0"),
        (["torchaudio==2.9.1", "torch>=2.9"], ""),
        ([], ""),
    ],
)
def test_the_doctor_knows_which_torch_a_vllm_wants(requirements: list[str], wanted: str) -> None:
    from rlserve.cli.doctor import torch_wanted_by

    assert torch_wanted_by(requirements) == wanted
