"""Threads of every process that computes sleep while they wait, by the word of the OpenMP that torch loaded."""

import os
import subprocess
import sys

import pytest

from rlserve.idle_threads import SETTINGS, sleep_when_idle

COMMANDS = {
    "a command": "from rlserve.cli.main import main\nmain(['verifier', 'list'])\nimport torch",
    "the start checkpoint": "import sys\nfrom rlserve.launch import prepare\nsys.argv[1:] = ['nothing']\n"
    "try:\n    prepare.main()\nexcept Exception:\n    pass\nimport torch",
}


@pytest.mark.parametrize("code", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_openmp_is_told_before_it_is_loaded(code: str, given: dict[str, str], expected: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **given, "OMP_DISPLAY_ENV": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr


def test_what_the_user_chose_stays() -> None:
    environment = {"OMP_WAIT_POLICY": "active"}
    sleep_when_idle(environment)
    assert environment == {"OMP_WAIT_POLICY": "active", "KMP_BLOCKTIME": "0"}
