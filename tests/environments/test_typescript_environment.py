"""The environment in TypeScript, against a real hub: registered, checked, killed, stopped."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.environment.client import EnvironmentClient
from rlserve.cli.main import main
from rlserve.records import EnvironmentSpec

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "environments" / "typescript"
HUB = ROOT / "tests" / "support" / "processes" / "hub_process.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node.js and npm"),
]


@pytest.fixture(scope="module")
def built() -> Path:
    """The compiled program."""
    script = SOURCE / "dist" / "main.js"
    newest = max(path.stat().st_mtime for path in (SOURCE / "src").iterdir())
    if not script.exists() or script.stat().st_mtime < newest:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=SOURCE, check=True, timeout=240)
        subprocess.run(["npm", "run", "build"], cwd=SOURCE, check=True, timeout=120)
    return script


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running, running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with process(sys.executable, str(HUB), "127.0.0.1:0", "1.0") as (_, address):
        yield address


def registered(hub: str) -> dict[str, EnvironmentSpec]:
    async def ask() -> dict[str, EnvironmentSpec]:
        async with HubClient(hub) as client:
            return {spec.name: spec for spec in await client.list_environments()}

    return asyncio.run(ask())


def wait_until(there: bool, hub: str, seconds: float = 5.0) -> float:
    start = time.monotonic()
    while ("reverse" in registered(hub)) != there:
        assert time.monotonic() - start < seconds
        time.sleep(0.05)
    return time.monotonic() - start


def test_it_is_registered_keeps_every_promise_and_leaves_with_its_process(
    built: Path, hub: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with process("node", str(built), "--hub", hub, "--weight", "0.5") as (server, address):
        wait_until(True, hub)
        spec = registered(hub)["reverse"]
        assert (spec.address, spec.weight, spec.verifier) == (address, 0.5, "exact")
        assert main(["env", "check", "reverse", "--hub", hub]) == 0, capsys.readouterr().out
        assert " 0 broken" in capsys.readouterr().out
        time.sleep(1.5)  # longer than the lease: heartbeats keep it
        assert "reverse" in registered(hub)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(False, hub)


def test_it_leaves_at_once_when_it_is_asked_to(built: Path, hub: str) -> None:
    with process("node", str(built), "--hub", hub) as (server, _):
        wait_until(True, hub)
        server.terminate()
        assert server.wait(timeout=5) == 0
        assert "reverse" not in registered(hub)


def test_its_tasks_hold_the_word_backwards(built: Path) -> None:
    async def ask(address: str) -> None:
        async with EnvironmentClient(address) as client:
            for task in await client.get_tasks("reverse", split="test", first_index=2**40, count=5, seed=2**52):
                assert isinstance(task.prompt, str)
                word = task.prompt.removesuffix(">")
                assert task.payload.decode() == f'{{"answer":"{word[::-1]}"}}'
                assert (task.split, task.seed) == ("test", 2**52)

    with process("node", str(built)) as (_, address):
        asyncio.run(ask(address))
