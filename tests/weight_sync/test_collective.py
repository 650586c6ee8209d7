"""Broadcast groups of real processes: who joins, who leaves, and what happens when a member dies or stands still."""

import asyncio
import functools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
import torch

from rlserve.errors import ConfigError, WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.rpc.channel import open_channel
from rlserve.rpc.server import serving
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync.carriers import CARRIERS, FULL_STREAM, broadcast_rank, carriers, collective
from rlserve.weight_sync.carriers.broadcast_rank import GLOO, BroadcastRank, Place, start_fork_server
from rlserve.weight_sync.carriers.collective import GATHER_SECONDS
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.service import SERVICE_NAME, PolicyService
from rlserve.weight_sync.subscriber import Subscriber

ADDRESS = "127.0.0.1"
PATIENCE = 5.0
"""Of a rank in these tests. One that joins is forked at once, also on a busy machine."""
OWNER = """
import time
from rlserve.weight_sync.carriers.broadcast_rank import BroadcastRank, Place
if __name__ == "__main__":
    rank = BroadcastRank(Place("group", "gloo", "127.0.0.1", 0, 0, 2))
    print(rank.process_id, rank.port(), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    """Ranks come from it: that torch is imported there is not part of any deadline here."""
    start_fork_server()
    process = multiprocessing.get_context("forkserver").Process(target=int)
    process.start()
    process.join()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces, so that a member that fails does so in the middle."""
    monkeypatch.setattr(broadcast_rank, "PIECE_BYTES", 2**15)
    monkeypatch.setattr(broadcast_rank, "PROGRESS_SECONDS", PATIENCE)


class Site:
    """A learner's service, and workers that take weights by broadcast, else as a full copy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.publisher = Publisher(directory, run_id="r")
        self.ways = (collective(ADDRESS), FULL_STREAM)
        self.workers: list[Subscriber] = []
        self.address = ""

    def publish(self, version: int) -> PolicyVersion:
        return self.publisher.publish(weights(version), version)

    def worker(self, name: str = "") -> Subscriber:
        async def connect() -> grpc.aio.Channel:
            return open_channel(self.address)

        name = name or f"w{len(self.workers)}"
        staging = self.directory / f"{name}-{len(self.workers)}"
        staging.mkdir()
        self.workers.append(Subscriber(connect, worker_id=name, staging=staging, chunk_seconds=20, carriers=self.ways))
        return self.workers[-1]

    async def fetch(self, policy: PolicyVersion, *workers: Subscriber) -> None:
        """By all of them at once; what comes must be right."""
        paths = await asyncio.gather(*(worker.fetch(policy, held=None) for worker in workers))
        for path in paths:
            assert path.read_bytes() == flat_bytes(policy.version)


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    found = Site(directory)
    service = PolicyService(found.publisher, chunk_bytes=2**20, carriers=found.ways)
    add = functools.partial(pb_grpc.add_PolicyStreamServiceServicer_to_server, service)
    try:
        async with serving(add, service_names=[SERVICE_NAME]) as server:
            found.address = server.address
            yield found
    finally:
        for worker in found.workers:
            await worker.close()
        found.publisher.close()
    assert not ranks(), "a rank outlives its learner and its workers"


def ranks() -> dict[str, int]:
    """Living rank processes of this process, by name."""
    return {p.name: p.pid or 0 for p in multiprocessing.active_children() if p.name.startswith("broadcast-")}


def weights(version: int) -> list[tuple[str, torch.Tensor]]:
    """8 MiB."""
    return [("a", torch.full((1024, 1024), float(version))), ("b", torch.arange(2**20) * (1.0 + version))]


def flat_bytes(version: int) -> bytes:
    return b"".join(tensor.numpy().tobytes() for _, tensor in weights(version))


async def test_one_group_serves_all_its_members_and_is_used_again(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        workers = [here.worker() for _ in range(2)]
        await here.fetch(here.publish(0), *workers)
        first = here.publish(1)
        await here.fetch(first, *workers)
        members = ranks()
        await here.fetch(here.publish(2), *workers)
        assert ranks() == members and set(members) == {"broadcast-0", "broadcast-1", "broadcast-2"}
        late = here.worker()
        await here.fetch(here.publisher.get(2).policy, late)
        assert late.counts.taken == {"full_stream": 1}, "the round was over"
        await here.fetch(here.publish(3), *workers, late)
        assert late.counts.taken == {"full_stream": 1, "collective": 1}
        # A worker that left without a word is waited for, and no longer than that.
        started = time.monotonic()
        await here.fetch(here.publish(4), *workers)
        assert time.monotonic() - started > GATHER_SECONDS
        assert [w.counts.taken for w in workers] == [{"collective": 5}] * 2
        assert [w.counts.refused for w in workers] == [0, 0]


async def test_a_worker_that_was_started_again_is_no_member_of_its_last_group(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        steady, before = here.worker(), here.worker("again")
        await here.fetch(here.publish(0), steady, before)
        await before.close()
        after = here.worker("again")
        await here.fetch(here.publish(1), steady, after)
        assert (steady.counts.taken, after.counts.taken) == ({"collective": 2}, {"collective": 1})
        assert (steady.counts.refused, after.counts.refused) == (0, 0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
async def test_a_member_that_fails_in_the_middle_is_left_out_and_let_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """Its whole host fails: its rank gets the signal, and its worker asks for nothing any more."""
    begin, victim = BroadcastRank.begin, list[BroadcastRank]()

    def fail(self: BroadcastRank, path: Path, size: int) -> None:
        begin(self, path, size)
        if self.place.rank == 3 and not victim:
            victim.append(self)
            os.kill(self.process_id, how)  # within microseconds, and the broadcast takes hundreds of milliseconds
            failing.cancel()

    async with site(tmp_path) as here:
        workers = [here.worker() for _ in range(3)]
        await here.fetch(here.publish(0), *workers)
        monkeypatch.setattr(BroadcastRank, "begin", fail)
        # The worker's end kills its rank only where it still can: its host does nothing any more.
        receiver = workers[2]._receivers["collective"]
        monkeypatch.setattr(receiver, "_leave", lambda: None)
        policy = here.publish(1)
        failing = asyncio.create_task(here.fetch(policy, workers[2]))
        started = time.monotonic()
        surviving = asyncio.create_task(here.fetch(policy, *workers[:2]))
        await surviving
        # Noticed, waited for once, joined, sent; the rest is a busy machine.
        assert time.monotonic() - started < PATIENCE + GATHER_SECONDS + 10
        assert victim[0].alive == (how == signal.SIGSTOP)
        assert [w.counts.taken["collective"] for w in workers] == [2, 2, 1], "a second broadcast, without the third"
        assert [w.counts.refused for w in workers[:2]] == [1, 1]
        await asyncio.gather(failing, return_exceptions=True)
        victim[0].close()
        monkeypatch.setattr(receiver, "_rank", None)
        monkeypatch.delattr(receiver, "_leave")
        await here.fetch(policy, workers[2])
        assert workers[2].counts.taken == {"collective": 1, "full_stream": 1}, "it catches up on another way"
        await here.fetch(here.publish(2), *workers)
        assert [w.counts.taken["collective"] for w in workers] == [3, 3, 2]


async def test_a_rank_that_stands_still_alone_costs_a_second_broadcast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker notices as the others do, and asks again with them."""
    begin, stopped = BroadcastRank.begin, list[int]()

    def stop(self: BroadcastRank, path: Path, size: int) -> None:
        if self.place.rank == 2 and not stopped:
            stopped.append(self.process_id)
            os.kill(self.process_id, signal.SIGSTOP)
        begin(self, path, size)

    monkeypatch.setattr(BroadcastRank, "begin", stop)
    async with site(tmp_path) as here:
        workers = [here.worker() for _ in range(2)]
        await here.fetch(here.publish(0), *workers)
        assert [w.counts.taken for w in workers] == [{"collective": 1}] * 2 and len(stopped) == 1
        with pytest.raises(ProcessLookupError):
            os.kill(stopped[0], 0)


async def test_a_group_elsewhere_is_not_joined(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        worker = here.worker()
        worker._receivers["collective"]._address = "10.1.2.3"  # type: ignore[attr-defined]
        await here.fetch(here.publish(0), worker)
        assert worker.counts.taken == {"full_stream": 1} and worker.counts.refused == 1


def test_a_rank_ends_with_its_owner_and_frees_its_port() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    rank, port = map(int, owner.stdout.readline().split())
    with socket.create_connection((ADDRESS, port)):
        pass
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{rank}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{rank}").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ADDRESS, port))


@pytest.mark.parametrize(
    "spoil",
    [
        {"rank": 3},
        {"rank": -1},
        {"port": 0},
        {"port": 2**16},
        {"backend": "mpi"},
        {"size": "many"},
        {"address": None, "port": None},
    ],
)
def test_a_malformed_place_is_refused(spoil: dict[str, object]) -> None:
    place = Place("group", GLOO, ADDRESS, 7000, 1, 3)
    assert Place.from_wire(place.to_wire()) == place
    for wire in (json.dumps(json.loads(place.to_wire()) | spoil), "{}", "[]", "x"):
        with pytest.raises(WeightsMismatch, match="is no place in a group"):
            Place.from_wire(wire)


def test_the_broadcast_comes_before_the_streams_and_only_at_an_address_of_this_host(tmp_path: Path) -> None:
    assert carriers("") == CARRIERS
    names = [carrier.name for carrier in carriers(ADDRESS)]
    assert names == ["device_memory", "shared_file", "collective", "delta_stream", "full_stream"]

    async def serve() -> None:
        PolicyService(Publisher(tmp_path, run_id="r"), chunk_bytes=2**20, carriers=carriers("192.0.2.1"))

    with pytest.raises(ConfigError, match=r"sync.broadcast_address: .*'192.0.2.1'.*its host"):
        asyncio.run(serve())
