"""Workers of one host fetch each version once, whatever happens to the one whose turn it is."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.host_copies import HostCopies
from rlserve.weight_sync.service import PolicyService
from rlserve.weight_sync.subscriber import Subscriber
from tests.weight_sync.test_streams import Setting, flat_bytes, served, weights

HOLDER = """
import asyncio, sys, time
from pathlib import Path
from rlserve.weight_sync.carriers.host_copies import HostCopies
async def hold():
    async with HostCopies(Path(sys.argv[1]), patience=30).turn("7" * 32):
        print("mine", flush=True)
        time.sleep(600)
asyncio.run(hold())
"""


def workers(setting: Setting, count: int, **more: Any) -> list[Subscriber]:
    return [setting.subscriber(host="one", **more) for _ in range(count)]


def taken(*given: Subscriber) -> Counter[str]:
    """By all of them since the last call."""
    found = sum((worker.counts.taken for worker in given), Counter[str]())
    for worker in given:
        worker.counts.taken.clear()
    return found


async def fetch(setting: Setting, version: int, *given: Subscriber, held: int | None = None) -> list[Path]:
    policy = setting.publisher.get(version).policy
    paths = await asyncio.gather(*(worker.fetch(policy, held=held) for worker in given))
    assert {path.read_bytes() for path in paths} == {flat_bytes(weights(version, changed=5))}
    return paths


async def test_one_worker_fetches_for_all_of_its_host(tmp_path: Path) -> None:
    async with served(tmp_path) as setting:
        here, elsewhere = workers(setting, 4), setting.subscriber()
        setting.publisher.publish(weights(0, changed=5), 0)
        paths = await fetch(setting, 0, *here, elsewhere)
        assert taken(*here) == {"full_stream": 1, "host_copy": 3} and taken(elsewhere) == {"full_stream": 1}
        assert len({path.stat().st_ino for path in paths[:4]}) == 1, "one copy in memory"
        setting.publisher.publish(weights(1, changed=5), 1)
        # Each of them can be the one: a copy of another worker is a base as well.
        last = await fetch(setting, 1, here[3], held=0)
        await fetch(setting, 1, *here[:3], held=0)
        assert taken(*here) == {"delta_stream": 1, "host_copy": 3}
        await here[3].close()
        assert not last[0].exists()
        setting.publisher.publish(weights(2, changed=5), 2)
        await fetch(setting, 2, *here[:3], held=1)
        assert taken(*here) == {"delta_stream": 1, "host_copy": 2}, "the base stayed when its maker left"
        for worker in here:
            await worker.close()
        assert not list((tmp_path / "staging-one").iterdir())


class Silent(PolicyService):
    """Answers the first request no further than its header."""

    calls = 0

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[pb.FetchResponse]:
        Silent.calls += 1
        first = Silent.calls == 1
        async for response in super().Fetch(request, context):
            yield response
            if first:
                await asyncio.sleep(3600)


async def test_a_fetch_without_progress_is_not_waited_for(tmp_path: Path) -> None:
    async with served(tmp_path, Silent) as setting:
        [stuck] = workers(setting, 1, chunk_seconds=60)
        [other] = workers(setting, 1, chunk_seconds=1)
        policy = setting.publisher.publish(weights(0, changed=5), 0)
        hanging = asyncio.create_task(stuck.fetch(policy, held=None))
        while not Silent.calls:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        await fetch(setting, 0, other)
        assert 1 < time.monotonic() - started < 20 and taken(other) == {"full_stream": 1}
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        [third] = workers(setting, 1)
        await fetch(setting, 0, third)
        assert taken(third) == {"full_stream": 1}, "nothing came of the turn that was given up"


async def test_the_turn_of_a_worker_that_is_killed_goes_to_the_next(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline()
    copies = HostCopies(tmp_path, patience=60)

    async def take() -> Path | None:
        async with copies.turn("7" * 32) as turn:
            turn.offer(tmp_path)
            return turn.copy

    waiting = asyncio.create_task(take())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    holder.send_signal(signal.SIGKILL)
    assert await asyncio.wait_for(waiting, 20) is None
    holder.wait()
    copies.close()
    assert not list(tmp_path.iterdir())


async def test_entries_whose_copies_are_gone_do_not_pile_up(tmp_path: Path) -> None:
    lost, kept = HostCopies(tmp_path, patience=1), HostCopies(tmp_path, patience=1)
    copy = tmp_path / "copy"
    copy.write_bytes(b"weights")
    for digest in ("a" * 32, "b" * 32):
        async with lost.turn(digest) as turn:
            turn.offer(copy)
    async with kept.turn("a" * 32) as turn:
        assert turn.copy == copy
    copy.unlink()
    async with kept.turn("c" * 32) as turn:
        turn.offer(copy)
    assert [path.name for path in tmp_path.glob("rlserve-copies-*/*")] == ["c" * 32]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/tmp")])
async def test_a_directory_that_is_not_this_users_is_not_used(tmp_path: Path, make: Any) -> None:
    make(tmp_path / f"rlserve-copies-{os.geteuid()}")
    async with HostCopies(tmp_path, patience=1).turn("a" * 32) as turn:
        turn.progress()
        turn.offer(tmp_path)
        assert turn.copy is None
