"""When pools grow and shrink, what joins them, and what is asked for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.hub.main import hub_server
from rlserve.cli.main import main
from rlserve.config.load import validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, InvalidRequest
from rlserve.launch.plan import plan_processes
from rlserve.launch.scaling.policy import (
    GROW_LOOKS,
    SETTLE_SECONDS,
    SHARE,
    SHRINK_LOOKS,
    Autoscaler,
    Signal,
    rollout_signal,
    server_signal,
)
from rlserve.launch.scaling.pools import Pools
from rlserve.launch.scaling.readings import Readings
from rlserve.launch.scaling.requests import ask, taken
from rlserve.records import Actor, ActorKind, RunPhase, RunState

BASE: dict[str, Any] = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}
MANY = 3_000
"""Seconds in which any bound of these tests is reached: a look a second, and a minute of rest after each change."""


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, int]:
    lowest = draw(st.integers(1, 20))
    return lowest, draw(st.integers(lowest, 40))


@given(bounds(), st.integers(0, 60), st.lists(st.tuples(st.sampled_from(Signal), st.floats(0.1, 100.0)), max_size=60))
def test_any_pool_stays_in_its_bounds_and_changes_by_little_and_seldom(
    range_: tuple[int, int], count: int, looks: list[tuple[Signal, float]]
) -> None:
    lowest, highest = range_
    pool, now, changed = Autoscaler(lowest, highest), 0.0, -SETTLE_SECONDS
    for signal, pause in looks:
        now += pause
        wanted = pool.look(count, signal, now)
        assert lowest <= wanted <= highest
        if lowest <= count <= highest and wanted != count:
            assert -1 <= wanted - count <= max(1, count // SHARE)
            assert now - changed >= SETTLE_SECONDS
            assert (wanted > count) == (signal is Signal.MORE)
        if wanted != count:
            changed = now
        count = wanted


@settings(max_examples=20)  # each walks through most of an hour
@given(bounds(), st.sampled_from([Signal.MORE, Signal.FEWER]))
def test_a_signal_that_lasts_reaches_the_bound_and_stays(range_: tuple[int, int], signal: Signal) -> None:
    lowest, highest = range_
    count, pool = (lowest if signal is Signal.MORE else highest), Autoscaler(lowest, highest)
    for now in range(MANY):
        count = pool.look(count, signal, float(now))
    assert count == (highest if signal is Signal.MORE else lowest)


@given(st.lists(st.integers(1, GROW_LOOKS - 1), min_size=1, max_size=30))
def test_a_signal_that_does_not_last_changes_nothing(lengths: list[int]) -> None:
    pool, now = Autoscaler(1, 9), 0.0
    for length in lengths:
        for signal in [Signal.MORE] * length + [Signal.FEWER] * min(length, SHRINK_LOOKS - 1):
            now += 1
            assert pool.look(4, signal, now) == 4


def test_what_is_measured_becomes_a_signal() -> None:
    def rollout(wait: float, step: float, queued: int) -> Signal:
        return rollout_signal(wait_seconds=wait, step_seconds=step, queued=queued, groups_per_step=8)

    assert rollout(5.0, 5.0, 0) is Signal.MORE
    assert rollout(1.0, 9.0, 20) is Signal.ENOUGH
    assert rollout(0.0, 9.0, 8) is Signal.FEWER
    assert rollout(0.0, 9.0, 7) is Signal.ENOUGH
    assert rollout(0.0, 0.0, 0) is Signal.ENOUGH
    assert [server_signal(queued=q, at_once=2) for q in (9, 8, 1, 0)] == [
        Signal.MORE, Signal.ENOUGH, Signal.ENOUGH, Signal.FEWER,
    ]  # fmt: skip


async def test_readings_come_from_the_hub_and_each_step_counts_once() -> None:
    readings = Readings(validate(RunConfig, {**BASE, "verifier": {"workers": 2}}))
    metrics = {"learner/wait_seconds": 5.0, "learner/step_seconds": 5.0}
    state = RunState(
        run_id="t", phase=RunPhase.TRAINING, step=3, total_steps=9, metrics=metrics, groups={"queued": 0},
        updated_unix_seconds=1.0, message="",
    )  # fmt: skip
    verifier = Actor(actor_id="verifier-0", kind=ActorKind.VERIFIER, address="127.0.0.1:1", incarnation="a")
    async with hub_server("127.0.0.1:0", 5.0) as server, HubClient(server.address) as hub:
        assert await readings.read(hub) == {}
        async with hub.registered(verifier, status=lambda: {"queued": "9"}):
            await hub.report_run_state(state)
            assert (await readings.read(hub))["rollout"] is Signal.MORE
            for _ in range(100):  # a heartbeat has the queue
                if signals := await readings.read(hub):
                    break
                await asyncio.sleep(0.05)
            assert signals == {"verifier": Signal.MORE}


def pools(gpus: tuple[str, ...] = (), **values: Any) -> tuple[Pools, list[Any]]:
    config = validate(RunConfig, {**BASE, "rollout": {"workers": 2}, **values})
    specs = plan_processes(config, Path("r"), hub_address="h:1", gpus=gpus)
    return Pools(config, specs, gpus), specs


def test_another_process_of_a_pool_is_like_the_first() -> None:
    made, specs = pools()
    (third,) = made.more("rollout", 1, specs)
    first = next(spec for spec in specs if spec.name == "rollout-0")
    assert third.name == "rollout-2" and third.kind == "rollout"
    assert [w for w in third.command if w not in first.command] == ["rollout-2"]
    without = [spec for spec in specs if spec.name != "rollout-1"]
    assert [spec.name for spec in made.more("rollout", 2, without)] == ["rollout-1", "rollout-2"]
    assert made.names("rollout", ["rollout-0", "rollout-10", "rollout-9", "learner"]) == [
        "rollout-10", "rollout-9", "rollout-0",
    ]  # fmt: skip
    with pytest.raises(InvalidRequest, match=r"learner: this run's launcher starts none; known are env.*rollout"):
        made.names("learner", [])


def test_another_process_gets_gpus_of_its_own_or_shares_as_its_like_do() -> None:
    made, specs = pools(gpus=tuple("01234"))  # learner 0, rollout 1 and 2
    one, two = made.more("rollout", 2, specs)
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in (one, two)] == ["3", "4"]
    with pytest.raises(InvalidRequest, match="another rollout process needs 1 GPUs; 0 of 5 are free"):
        made.more("rollout", 3, specs)
    made, specs = pools(gpus=("0",))
    assert made.more("rollout", 1, specs)[0].environment["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_pool_with_a_port_of_its_own_cannot_grow() -> None:
    made, specs = pools(verifier={"address": "127.0.0.1:7002"})
    with pytest.raises(InvalidRequest, match="verifier: its address has port 7002"):
        made.more("verifier", 1, specs)


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    assert taken(path) == {}
    ask(path, {"rollout": 4})
    assert taken(path) == {"rollout": 4} and taken(path) == {}
    path.write_text("{")
    assert taken(path) == {}


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"environment": {"max": 2}}, "launch.scale: names 'environment'; give rollout"),
        ({"rollout": {"min": 3, "max": 2}}, "min: is 3, above max = 2"),
    ],
)
def test_bounds_that_cannot_be_are_named(scale: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, {**BASE, "launch": {"scale": scale}})


def test_a_count_that_cannot_be_and_a_run_that_is_over_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("")
    assert main(["scale", str(tmp_path), "rollout=many"]) == 1
    assert "rollout=many: give POOL=COUNT" in capsys.readouterr().err
    (tmp_path / "hub.address").write_text("127.0.0.1:1")
    assert main(["scale", str(tmp_path), "rollout=2"]) == 1
    assert "is not running; continue it with rlserve run --resume" in capsys.readouterr().err
    assert not (tmp_path / "scale.json").exists()
