"""Processes that live and send no heartbeat: by a moved clock, and with a real hub and a stopped process."""

import asyncio
import os
import signal
import subprocess
import sys
import time

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.starting import announced
from rlserve.actors.hub.main import hub_server
from rlserve.launch.supervision import silence
from rlserve.launch.supervision.silence import Silences, Starts
from rlserve.records import Actor, ActorKind

LIVING = {"hub": 1, "learner": 2, "rollout-0": 3}


def test_a_silent_process_is_named_once_and_when_it_is_back() -> None:
    silences = Silences(patience_seconds=10)
    assert silences.look(LIVING, {"learner": 2, "rollout-0": 3}, 0.0) == []
    assert silences.look(LIVING, {"rollout-0": 3}, 1.0) == []
    assert silences.look(LIVING, {"rollout-0": 3}, 10.5) == []
    (said,) = silences.look(LIVING, {"rollout-0": 3}, 11.0)
    assert said.startswith("learner: it has sent the hub no heartbeat for 10 s") and "`kill -9 2`, and continue" in said
    assert silences.look(LIVING, {"rollout-0": 3}, 99.0) == []
    assert silences.look(LIVING, {"learner": 2, "rollout-0": 3}, 100.0) == ["learner: sends heartbeats again"]
    assert silences.look(LIVING, {"learner": 2, "rollout-0": 3}, 200.0) == []


def test_who_starts_and_who_died_is_not_silent() -> None:
    silences = Silences(patience_seconds=10)
    for now in range(0, 100, 10):
        assert silences.look(LIVING, {"learner": 2}, float(now)) == []  # rollout-0 has never come up
    silences.look(LIVING, {"learner": 2, "rollout-0": 3}, 100.0)
    for now in range(110, 200, 10):
        assert silences.look(LIVING | {"rollout-0": 33}, {"learner": 2}, float(now)) == []  # another process, starting


def test_a_hub_that_does_not_answer_is_named_and_nobody_else() -> None:
    silences = Silences(patience_seconds=10)
    silences.look(LIVING, {"learner": 2, "rollout-0": 3}, 0.0)
    assert silences.look(LIVING, None, 1.0) == []
    (said,) = silences.look(LIVING, None, 30.0)
    assert said.startswith("hub: it does not answer for 29 s") and "another takes its place" in said
    assert silences.look(LIVING, {}, 31.0) == ["hub: sends heartbeats again"]
    assert silences.look(LIVING, {"learner": 2, "rollout-0": 3}, 32.0) == []


async def test_a_stopped_process_is_told_with_its_state() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        async with hub_server("127.0.0.1:0", 0.5) as server, HubClient(server.address) as hub:
            actor = Actor(
                actor_id="verifier-0",
                kind=ActorKind.VERIFIER,
                address="127.0.0.1:1",
                incarnation="first",
                pid=process.pid,
            )
            lease, _ = await hub.register(actor)
            silences = Silences(patience_seconds=0.1)
            assert silences.look({"verifier-0": process.pid}, {"verifier-0": process.pid}, time.monotonic()) == []
            os.kill(process.pid, signal.SIGSTOP)
            await hub.deregister(lease)
            watching = asyncio.create_task(
                silence.watch(
                    server.address, lambda: {"verifier-0": process.pid}, told.put_nowait, silences, print, Starts()
                )
            )
            said = await asyncio.wait_for(told.get(), 60)
            watching.cancel()
    finally:
        process.kill()
        process.wait()
    assert said.startswith("verifier-0: it has sent the hub no heartbeat") and f"(pid {process.pid}, stopped)" in said


def test_a_long_start_is_told_at_each_change() -> None:
    starts = Starts(patience_seconds=20)
    loads, compiles = {"rollout-0": "loads the weights"}, {"rollout-0": "compiles"}
    assert starts.look(loads, 0.0) == [] == starts.look(loads, 19.0)  # most starts are over by then
    assert starts.look(loads, 21.0) == [("rollout-0", "loads the weights", 21.0)]
    assert starts.look(loads, 60.0) == []
    assert starts.look(compiles, 62.0) == [("rollout-0", "compiles", 62.0)]
    assert starts.look({}, 70.0) == []  # it serves
    assert starts.look(compiles, 80.0) == [] == starts.look({**compiles, "t": ""}, 99.0)
    assert starts.look(compiles, 100.0) == [("rollout-0", "compiles", 20.0)]
    # Pretraining may take hours, and has news of its own.
    assert starts.look({"rollout-1": "waits for the start model"}, 110.0) == []
    assert (
        starts.look({"rollout-1": "waits for the start model"}, 990.0) == [] == starts.look({"rollout-1": "l"}, 991.0)
    )
    assert starts.look({"rollout-1": "l"}, 1011.0) == [("rollout-1", "l", 20.0)]


async def test_what_a_start_does_comes_from_the_hub() -> None:
    told: asyncio.Queue[tuple[str, str, float]] = asyncio.Queue()
    actor = Actor(actor_id="rollout-0", kind=ActorKind.ROLLOUT, address="127.0.0.1:1", incarnation="first")
    async with hub_server("127.0.0.1:0", 0.5) as server, announced(server.address, actor, lambda: "compiles"):
        watching = asyncio.create_task(
            silence.watch(
                server.address,
                dict,
                print,
                Silences(),
                lambda *news: told.put_nowait(news),
                Starts(patience_seconds=0.0),
            )
        )
        name, doing, _ = await asyncio.wait_for(told.get(), 60)
        watching.cancel()
    assert (name, doing) == ("rollout-0", "compiles")
