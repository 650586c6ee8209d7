"""Processes around an actor: registered, stopped by signals with the right exit code, never orphaned."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.hub.main import hub_server
from rlserve.actors.stop_deadline import EXIT_STUCK
from tests.support.processes.children import HERE, child

LEASE = 1.0


@pytest.fixture
async def hub() -> AsyncIterator[HubClient]:
    async with hub_server("127.0.0.1:0", LEASE) as server, HubClient(server.address) as client:
        yield client


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_actor_with_0_after_it_left_the_hub_and_drained(
    hub: HubClient, number: signal.Signals
) -> None:
    async with child("echo_actor.py", "v-0", hub.address, "math", "slow-drain") as actor:
        await actor.until("registered")
        (listed,) = await hub.list_actors()
        assert (listed.actor_id, listed.pid, listed.serves) == ("v-0", actor.pid, ("math",))
        actor.signal(number)
        await gone(hub)
        assert psutil.pid_exists(actor.pid)  # it left first, so that no caller sends more while it drains
        await actor.until("drained")
        assert await actor.exit_code() == 0


@pytest.mark.parametrize("mode", ["stuck-task", "stuck-drain", "stuck-thread"])
async def test_a_stop_that_hangs_is_ended_and_says_in_what(hub: HubClient, mode: str) -> None:
    async with child("echo_actor.py", "v-0", hub.address, "math", mode) as actor:
        await actor.until("registered")
        actor.signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await actor.exit_code() == EXIT_STUCK


async def gone(hub: HubClient) -> None:
    async with asyncio.timeout(LEASE * 0.9):  # by its own word, not by its lease
        while await hub.list_actors():
            await asyncio.sleep(0.01)


async def test_a_signal_during_the_start_does_not_wait_for_its_end(hub: HubClient) -> None:
    async with child("echo_actor.py", "v-0", hub.address, "math", "slow-start") as actor:
        await actor.until("starting")
        actor.signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await actor.exit_code() == 0


@pytest.mark.parametrize(("mode", "code"), [("ends", 0), ("fails", 1)])
async def test_the_end_of_its_work_is_the_end_of_the_actor(hub: HubClient, mode: str, code: int) -> None:
    async with child("echo_actor.py", "v-0", hub.address, "math", mode) as actor:
        await actor.until("registered")
        assert await actor.exit_code() == code
        assert await hub.list_actors() == []


async def test_without_a_hub_an_actor_serves_alone() -> None:
    async with child("echo_actor.py", "v-0", "", "math") as actor:
        await actor.until("registered")
        actor.signal(signal.SIGTERM)
        assert await actor.exit_code() == 0


async def test_an_actor_whose_id_was_taken_by_a_newer_process_stops_with_3(hub: HubClient) -> None:
    async with child("echo_actor.py", "v-0", hub.address, "math") as old:
        await old.until("registered")
        async with child("echo_actor.py", "v-0", hub.address, "math") as new:
            await new.until("registered")
            assert await old.exit_code() == 3
            assert [a.pid for a in await hub.list_actors()] == [new.pid]


LAUNCHER = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, {script!r}, "v-0", "", "math"],
    env=dict(os.environ, RLSERVE_PARENT_PID=str({parent})),
    stdout=subprocess.PIPE,
)
while child.stdout.readline().strip() != b"registered":
    if child.poll() is not None:
        sys.exit(9)
print(child.pid, flush=True)
time.sleep(60)
"""


def launcher(tmp_path: Path, parent: str) -> str:
    path = tmp_path / "launcher.py"
    path.write_text(LAUNCHER.replace("{script!r}", repr(str(HERE / "echo_actor.py"))).replace("{parent}", parent))
    return str(path)


async def test_an_actor_dies_with_its_launcher_even_by_sigkill(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, launcher(tmp_path, "os.getpid()"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        pid = int(await asyncio.wait_for(process.stdout.readline(), 30))
        assert psutil.pid_exists(pid)
    finally:
        process.kill()
        await process.wait()
    async with asyncio.timeout(5):
        while is_running(pid):
            await asyncio.sleep(0.01)


async def test_an_actor_whose_launcher_died_before_it_could_ask_does_not_start(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, launcher(tmp_path, "999999999"))
    assert await asyncio.wait_for(process.wait(), 30) == 9


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("launched", [True, False])
async def test_the_launchers_name_is_not_passed_on_to_grandchildren(launched: bool) -> None:
    code = (
        "from rlserve.actors.process import die_with_parent; import os; die_with_parent();"
        "print('RLSERVE_PARENT_PID' in os.environ)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RLSERVE_PARENT_PID"}
    if launched:
        environment["RLSERVE_PARENT_PID"] = str(os.getpid())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, output.strip()) == (0, b"False")
