"""The adapter of OpenEnv, with its library in a virtual environment of its own and a real server of it."""

import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENV = ROOT / "build" / "openenv-venv"
SERVER = ROOT / "tests" / "support" / "processes" / "openenv_server.py"

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(1800)]  # pip installs 100 packages: minutes

PLAYED = """
import sys
from rlserve.environments.adapters.openenv import OpenEnvEnvironment
from rlserve.errors import InvalidRequest, Unavailable

url = sys.argv[1]
env = OpenEnvEnvironment(url=url, observation="echoed")
task = env.task("train", 0, 0)
assert task.prompt[0].content == "Which number from 0 to 9?", task.prompt
for number in range(10):
    episode = env.open(task)
    turn = episode.step(f"<think>maybe</think>{number}")
    episode.close()
    if turn.done:
        assert turn.verdict.reward == 1.25 and turn.verdict.outcome.value == "pass", turn
        break
else:
    raise AssertionError("no number is right")
episode = env.open(task)
assert "That is no action" in episode.step("a" * 2000).messages[0].content
wrong = str((number + 1) % 10)
assert episode.step(wrong).verdict.reward == 0.25 and not episode.step(wrong).done
assert episode.step(wrong).done and env.open(task).step(wrong).messages == env.open(task).step(wrong).messages
episode.close()
spoken = OpenEnvEnvironment(url=url, action="").open(task)
assert "That is no action" in spoken.step("4").messages[0].content
assert '"echoed"' in spoken.step('{"message": "%s"}' % wrong).messages[0].content
for options, error in (({"url": "http://127.0.0.1:1"}, Unavailable), ({"observation": "a.b"}, InvalidRequest)):
    try:
        OpenEnvEnvironment(**({"url": url} | options))
    except error as found:
        print(found)
    else:
        raise AssertionError(options)
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of an environment that has the library; made once."""
    stamp = VENV / "installed"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, timeout=120)
        pip = [str(VENV / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, f"{ROOT}[openenv]"], check=True, timeout=1500)
        subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True, timeout=120)
        stamp.touch()
    return str(VENV / "bin" / "python")


@pytest.fixture(scope="module")
def url(python: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([python, str(SERVER), str(port)])
    try:
        deadline = time.monotonic() + 180  # it imports for a while
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_an_environment_behind_a_server_is_played(python: str, url: str) -> None:
    done = subprocess.run([python, "-c", PLAYED, url], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        "cannot be" not in done.stdout and "127.0.0.1:1" in done.stdout and "has no 'a' (fields: echoed)" in done.stdout
    )


def test_the_documented_configuration_keeps_every_promise(python: str, url: str) -> None:
    text = (ROOT / "environments" / "README.md").read_text(encoding="utf-8")
    [table] = [t for t in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if 'plugin = "openenv"' in t]
    options = tomllib.loads(table)["environments"][0]["options"] | {"url": url}
    command = [str(Path(python).parent / "rlserve"), "env", "check", "openenv"]
    command += [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    checked = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"COLUMNS": "200"}
    )
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr[-2000:]
    assert " 0 broken" in checked.stdout and "ok       The same texts get the same answers" in checked.stdout
