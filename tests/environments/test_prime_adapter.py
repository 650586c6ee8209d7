"""Tasksets of the verifiers library, served from a virtual environment of their own."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.environment.client import EnvironmentClient
from rlserve.actors.verifier.client import VerifierClient
from rlserve.records import ActorKind, Outcome

ROOT = Path(__file__).parents[2]
VENV = ROOT / "build" / "prime-venv"
SUPPORT = ROOT / "tests" / "support" / "plugins"
HUB = ROOT / "tests" / "support" / "processes" / "hub_process.py"

pytestmark = [pytest.mark.slow, pytest.mark.whole, pytest.mark.timeout(600)]  # it installs a library by pip: a minute


@pytest.fixture(scope="module")
def rlserve() -> str:
    """``rlserve`` of an environment that has the library; made once."""
    stamp = VENV / "installed"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, timeout=120)
        pip = [str(VENV / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "verifiers>=0.4,<0.5", str(ROOT)], check=True, timeout=400)
        subprocess.run([*pip, "--no-deps", "--editable", str(ROOT / "environments" / "prime")], check=True, timeout=120)
        stamp.touch()
    return str(VENV / "bin" / "rlserve")


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def test_a_taskset_keeps_every_promise(rlserve: str) -> None:
    command = [rlserve, "env", "check", "prime", "--option", "taskset=tiny_taskset"]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr[-2000:]
    assert " 0 broken" in checked.stdout


PLAYED = """
from rlserve.records import ToolCall
from rlserve_prime.environment import PrimeEnvironment

shelf = PrimeEnvironment(taskset="tool_taskset", turns=3)
task = shelf.task("train", 3, 0)
assert [tool.name for tool in task.tools] == ["shelf_toolset_look_up"] and task.multi_turn and not task.verifier
one, other = shelf.open(task), shelf.open(task)
calls = [ToolCall(id="call00000", name="shelf_toolset_look_up", arguments_json='{"key": "second"}')]
calls += [ToolCall(id="call00001", name="shelf_toolset_look_up", arguments_json='{"key": "gold"}')]
calls += [ToolCall(id="call00002", name="steal")]
turn = one.call("...", tuple(calls))
assert turn.messages[0].content == "9" and all("Error: " in m.content for m in turn.messages[1:]), turn
last = one.step("12")
assert last.done and (last.verdict.reward, last.verdict.parts["looked"]) == (1.0, 2.0), last
wrong = other.step("13").verdict
assert (wrong.outcome.value, wrong.parts["looked"]) == ("fail", 0.0), "each episode has a state of its own"
limited = shelf.open(task)
assert [limited.call("...", tuple(calls[:1])).done for _ in range(3)] == [False, False, True]
for episode in (one, other, limited):
    episode.close()
"""


def test_tools_of_a_taskset_are_called_and_its_rewards_read_the_whole_conversation(rlserve: str) -> None:
    python = str(Path(rlserve).parent / "python")
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    # Elsewhere than in the checkout, whose folder ``verifiers`` would be found before the library.
    done = subprocess.run(
        [python, "-c", PLAYED], capture_output=True, text=True, env=environment, cwd=VENV, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_documented_configuration_with_tools_keeps_every_promise(rlserve: str) -> None:
    text = (ROOT / "environments" / "README.md").read_text(encoding="utf-8")
    [table] = [t for t in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if 'plugin = "prime"' in t]
    options = tomllib.loads(table)["environments"][0]["options"]
    command = [rlserve, "env", "check", "prime"]
    command += [word for key, value in options.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    checked = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr[-1000:]
    assert "ok       Each call of a tool is answered" in checked.stdout


def test_its_tasks_and_rewards_reach_others_through_the_hub(rlserve: str, tmp_path: Path) -> None:
    config = tmp_path / "prime.toml"
    config.write_text(
        'name = "prime"\n[model]\npath = "unused"\n[[environments]]\nname = "doubles"\nplugin = "prime"\n'
        'options = { taskset = "tiny_taskset" }\n'
    )
    with process(sys.executable, str(HUB), "127.0.0.1:0", "2.0") as hub_process:
        assert hub_process.stdout is not None
        hub = hub_process.stdout.readline().strip()
        serve = [rlserve, "serve"]
        rest = ["--config", str(config), "--hub", hub, "--address", "127.0.0.1:0", "--id"]
        with (
            process(*serve, "environment", *rest, "environment-prime", PYTHONPATH=str(SUPPORT)),
            process(*serve, "verifier", *rest, "verifier-prime", PYTHONPATH=str(SUPPORT)),
        ):
            asyncio.run(_use(hub))


async def _use(hub: str) -> None:
    async with HubClient(hub) as client:
        environment = await client.wait_for(ActorKind.ENVIRONMENT, serves="doubles", deadline_seconds=60)
        verifier = await client.wait_for(ActorKind.VERIFIER, serves="prime", deadline_seconds=60)
    async with EnvironmentClient(environment.address) as server:
        task = (await server.get_tasks("doubles", first_index=3))[0]
    assert task.environment == "doubles"
    assert json.loads(task.payload)["idx"] == 3
    async with VerifierClient(verifier.address) as judge:
        right, wrong, broken = await judge.verify("prime", ["6", "7", "break"], task.payload)
    assert (right.outcome, right.reward, right.parts["length"]) == (Outcome.PASS, 1.0, 1.0)
    assert (wrong.outcome, wrong.reward) == (Outcome.FAIL, 0.0)
    assert not broken.has_reward
    assert broken.failure is not None
    assert "a broken reward" in broken.failure.message
