"""A wheel has all that its commands name: it is built, unpacked elsewhere, and asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.whole
def test_shipped_configurations_are_run_by_name_from_a_wheel(tmp_path: Path) -> None:
    # A copy: setuptools leaves its build beside the sources.
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sources = tmp_path / "sources"
    for name in listed.split("\0")[:-1]:
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, sources / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(sources)]
    subprocess.run([*pip, *build], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(place), str(wheel)], check=True, timeout=300)

    def say(*words: str) -> str:
        command = [sys.executable, "-m", "rlserve.cli.main", *words]
        # A working directory without a checkout, whose configurations would be found first.
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(place)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert (place / "rlserve" / "py.typed").exists(), "type checkers of users would ignore the annotations"
    assert "gpu/gsm8k_qwen" in say("config", "list")
    assert 'name = "quickstart"' in say("run", "quickstart", "--dry-run", "--no-preflight")
    assert say("config", "reference") == (ROOT / "docs" / "configuration.md").read_text()
