"""What every launcher promises, with real processes. A new launcher is one more entry of ``IMPLEMENTATIONS``."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlserve.config.load import load_run, to_toml
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.launch import RayConfig
from rlserve.errors import UnknownName
from rlserve.launch.base import Launcher, LauncherType, RunFailed
from rlserve.launch.plan import LEARNER, ProcessSpec
from rlserve.launch.registry import LAUNCHERS, launcher_type
from rlserve.launch.scaling.requests import ask
from rlserve.launch.supervision import supervisor
from rlserve.launch.supervision.actors import EARLY
from rlserve.observability.events import read_json_lines

IMPLEMENTATIONS: dict[str, LauncherType] = {name: launcher_type(name) for name in LAUNCHERS}
WHOLE = {"ray": pytest.mark.whole}
"""Each process starts a Ray worker first; ``tests/launch/test_ray.py`` has the shortest way through it."""
QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"
FAST = ("launch.restart_backoff_seconds=0.01", "launch.max_restarts=3", "launch.stop_seconds=5")


class Site:
    """A launcher in a run directory of its own, and the files that its processes leave."""

    def __init__(self, kind: LauncherType, root: Path, *settings: str) -> None:
        self.config: RunConfig = load_run([QUICK], [*FAST, *settings])
        self.paths = RunPaths(root / "run")
        self.paths.root.mkdir()
        self.paths.config.write_text(to_toml(self.config), encoding="utf-8")
        self.marks = root / "marks"
        self.marks.mkdir()
        self.launcher: Launcher = kind(self.config, self.paths, digest="")

    def spec(self, name: str, program: str, *, kind: str = "rollout") -> ProcessSpec:
        """A process that notes its id in ``marks/<name>`` and goes on with ``program``."""
        begin = (
            "import os, pathlib, signal, subprocess, sys, time\n"
            f"marks = pathlib.Path({str(self.marks)!r})\n"
            f"with open(marks / {name!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\n"
            f"starts = len((marks / {name!r}).read_text().split())\n"
        )
        return ProcessSpec(
            name=name, kind=kind, command=(sys.executable, "-c", begin + program), restartable=kind != LEARNER
        )

    def learner(self, program: str) -> ProcessSpec:
        return self.spec(LEARNER, program, kind=LEARNER)

    def pids(self, name: str) -> list[int]:
        """Ids under which a process was started, in order."""
        path = self.marks / name
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def events(self, name: str) -> list[Any]:
        return [event for event in read_json_lines(self.paths.events) if event["event"] == name]

    def log(self, name: str) -> str:
        return (self.paths.logs / f"{name}.log").read_text()


WAIT_FOR = (
    "while not (marks / {name!r}).exists() or len((marks / {name!r}).read_text().split()) < {times}: time.sleep(0.02)"
)
FOREVER = "time.sleep(3600)"


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One for all tests: a launcher keeps to the connection that its process has."""
    import ray

    from rlserve.launch.ray.cluster import LOCAL, connect

    connect(RayConfig(address=LOCAL), cpus=8)
    yield
    ray.shutdown()


@pytest.fixture(params=[pytest.param(name, marks=WHOLE.get(name, ())) for name in IMPLEMENTATIONS])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Site]:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return lambda *settings: Site(IMPLEMENTATIONS[request.param], tmp_path, *settings)


@asynccontextmanager
async def run(site: Site, *specs: ProcessSpec) -> AsyncIterator["asyncio.Task[None]"]:
    await site.launcher.start_hub()
    task = asyncio.create_task(site.launcher.run(specs))
    try:
        async with asyncio.timeout(120):
            yield task
    finally:
        site.launcher.request_stop()
        await asyncio.gather(task, return_exceptions=True)
        await site.launcher.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


async def all_gone(pids: Sequence[int]) -> bool:
    """Whether the processes end within some seconds; a zombie is gone."""

    def lives(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    for _ in range(500):
        if not any(lives(pid) for pid in pids):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_run_ends_with_its_learner_and_every_process_has_its_log(make: Callable[..., Site]) -> None:
    site = make()
    speaker = site.spec("rollout-0", f"print('out'); print('err', file=sys.stderr); sys.stdout.flush(); {FOREVER}")
    learner = site.learner(WAIT_FOR.format(name="rollout-0", times=1) + "\ntime.sleep(0.3); print('trained')")
    async with run(site, learner, speaker) as running:
        await running
        assert site.log(LEARNER) == "trained\n"
        await until(lambda: sorted(site.log("rollout-0").split()) == ["err", "out"])
    assert site.events("actor_died") == []


async def test_what_crashes_is_started_again_and_its_log_goes_on(make: Callable[..., Site]) -> None:
    site = make()
    crashing = site.spec("rollout-0", f"print('life', starts, flush=True)\nif starts < 3: sys.exit(3)\n{FOREVER}")
    learner = site.learner(WAIT_FOR.format(name="rollout-0", times=3))
    async with run(site, learner, crashing) as running:
        await running
        await until(lambda: site.log("rollout-0").splitlines() == ["life 1", "life 2", "life 3"])
    assert [(e["actor"], e["how"], e["said"]) for e in site.events("actor_died")] == [
        ("rollout-0", "exit code 3", "life 1"),
        ("rollout-0", "exit code 3", "life 2"),
    ]
    assert [e["pid"] for e in site.events("actor_restarted")] == site.pids("rollout-0")[1:]


async def test_what_keeps_crashing_ends_the_run(make: Callable[..., Site]) -> None:
    site = make()
    crashing = site.spec("rollout-0", "print(f'cause {starts}', flush=True); sys.exit(1)")
    async with run(site, site.learner(FOREVER), crashing) as running:
        with pytest.raises(RunFailed, match=r"^rollout-0: exit code 1.*restarted 3 times.*: cause 4\nlog: "):
            await running
    assert len(site.pids("rollout-0")) == 4


async def test_a_start_that_fails_alike_each_time_is_not_tried_to_the_end(make: Callable[..., Site]) -> None:
    site = make("launch.max_restarts=100")
    crashing = site.spec("rollout-0", "print('no such model', flush=True); sys.exit(1)")
    async with run(site, site.learner(FOREVER), crashing) as running:
        with pytest.raises(RunFailed, match=r"never registered, and failed alike each time: no such model"):
            await running
    assert len(site.pids("rollout-0")) == 3


async def test_a_fault_of_the_configuration_is_told_once(make: Callable[..., Site]) -> None:
    site = make()
    refusing = site.spec("verifier-0", "print('verifier: is odd; mend it', flush=True); sys.exit(78)", kind="verifier")
    async with run(site, site.learner(FOREVER), refusing) as running:
        with pytest.raises(RunFailed, match=r"verifier-0: verifier: is odd; mend it\nThis is a fault of the config"):
            await running
    assert len(site.pids("verifier-0")) == 1
    (died,) = site.events("actor_died")
    assert not died["restarts"]


async def test_a_learner_that_fails_ends_the_run_with_its_last_words(make: Callable[..., Site]) -> None:
    site = make()
    async with run(site, site.learner("print('out of memory', flush=True); sys.exit(1)")) as running:
        with pytest.raises(RunFailed, match=r"learner: exit code 1: out of memory\nNo checkpoint was made yet"):
            await running
    assert len(site.pids(LEARNER)) == 1


async def test_a_learner_that_was_killed_goes_on_from_its_checkpoint_with_all_its_ranks(
    make: Callable[..., Site],
) -> None:
    site = make("learner.ranks=2")
    say = "print(*sys.argv[1:], flush=True)\n"
    meet = '(marks / f\'met-{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}-{starts}\').touch()\n'
    first = site.learner(f"{say}{meet}if starts < 2: {FOREVER}")
    second = site.spec("learner-rank-1", f"{meet}if starts < 2: os.kill(os.getpid(), 9)\n{FOREVER}", kind=LEARNER)
    async with run(site, first, second) as running:
        await running
        assert site.log(LEARNER) == "\n--resume\n"
    assert [(e["actor"], e["how"]) for e in site.events("actor_died")] == [("learner-rank-1", "killed by SIGKILL")]
    assert [e["actor"] for e in site.events("actor_restarted")] == [LEARNER, "learner-rank-1"]
    # One place for both ranks at each start.
    assert len(list(site.marks.glob("met-*-1"))) == len(list(site.marks.glob("met-*-2"))) == 1
    assert await all_gone([*site.pids(LEARNER), *site.pids("learner-rank-1")])


async def test_a_learner_that_is_killed_again_and_again_ends_the_run(make: Callable[..., Site]) -> None:
    site = make("launch.learner_restarts=1")
    async with run(site, site.learner("os.kill(os.getpid(), 9)")) as running:
        with pytest.raises(RunFailed, match=r"learner: killed by SIGKILL\nNo checkpoint was made yet"):
            await running
    assert len(site.pids(LEARNER)) == 2


async def test_a_pool_grows_and_shrinks_and_what_left_stays_away(make: Callable[..., Site]) -> None:
    site = make()
    worker = site.spec(
        "rollout-0",
        "name = sys.argv[1]\n(marks / name).touch()\n"
        f"signal.signal(signal.SIGTERM, lambda *_: ((marks / (name + '-left')).touch(), sys.exit(0)))\n{FOREVER}",
    )
    worker = replace(worker, command=(*worker.command, "rollout-0"))  # the name is replaced in those that join
    server = site.spec("verifier-0", FOREVER, kind="verifier")
    async with run(site, site.learner(FOREVER), worker, server):
        await until(lambda: site.pids("verifier-0"))
        ask(site.paths.scale, {"rollout": 3})
        await until(lambda: (site.marks / "rollout-1").exists() and (site.marks / "rollout-2").exists())
        await until(lambda: site.events("scaled"))
        await asyncio.sleep(0.2)  # their handlers
        ask(site.paths.scale, {"rollout": 1, "learner": 2})
        await until(lambda: len(site.events("scaled")) == 3)
        assert (site.marks / "rollout-1-left").exists() and (site.marks / "rollout-2-left").exists()
        assert not (site.marks / "rollout-0-left").exists()
    assert [(e["pool"], e["before"], e["now"]) for e in site.events("scaled")] == [
        ("rollout", 1, 3), ("rollout", 3, 1), ("learner", 0, 0),
    ]  # fmt: skip
    assert "learner: this run's launcher starts none" in site.events("scaled")[2]["problem"]
    assert site.events("actor_died") == []


@pytest.mark.parametrize("learner_lives", [True, False])
async def test_an_actor_that_ends_well_is_started_again_only_while_the_learner_lives(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, learner_lives: bool
) -> None:
    monkeypatch.setattr(supervisor, "OVER_SECONDS", 0.5 if learner_lives else 60.0)
    site = make()
    ending = site.spec("rollout-0", f"if starts > 1: {FOREVER}")
    learner = site.learner(WAIT_FOR.format(name="rollout-0", times=2 if learner_lives else 1) + "\ntime.sleep(0.3)")
    async with run(site, learner, ending) as running:
        await running
    if learner_lives:
        (died,) = site.events("actor_died")
        assert died["actor"] == "rollout-0" and died["said"] == EARLY
    else:
        assert site.events("actor_died") == []


async def test_a_stop_leaves_nothing_behind(make: Callable[..., Site]) -> None:
    """The learner, which saves, goes first; a grandchild goes with its parent; who does not obey is killed."""
    site = make("launch.stop_seconds=1")
    saying = "signal.signal(signal.SIGTERM, lambda *_: ((marks / 'saved').write_text(''), sys.exit(143)))\n"
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])"
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    parent = f"{deaf}child = {child}\n(marks / 'child').write_text(str(child.pid))\n{FOREVER}"
    specs = [
        site.learner(f"{saying}(marks / 'ready').write_text('')\n{FOREVER}"),
        site.spec("rollout-0", parent),
    ]
    async with run(site, *specs) as running:
        await until(lambda: (site.marks / "child").exists() and (site.marks / "ready").exists())
        await until(lambda: site.pids("child"))
        site.launcher.request_stop()
        await running
        assert await site.launcher.close() == ["rollout-0"]
    assert (site.marks / "saved").exists()
    assert await all_gone([*site.pids(LEARNER), *site.pids("rollout-0"), *site.pids("child")])
    assert [event["actor"] for event in site.events("actor_killed")] == ["rollout-0"]


async def test_who_hurries_does_not_wait_for_the_grace(make: Callable[..., Site]) -> None:
    site = make("launch.stop_seconds=600")
    stubborn = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); (marks / 'ready').write_text(''); {FOREVER}"
    async with run(site, site.learner(stubborn)) as running:
        await until(lambda: (site.marks / "ready").exists())
        site.launcher.request_stop()
        await running
        closing = asyncio.create_task(site.launcher.close())
        await asyncio.sleep(0.1)
        assert not closing.done()
        site.launcher.hurry()
        await asyncio.wait_for(closing, 30)
    assert await all_gone(site.pids(LEARNER))


@pytest.mark.parametrize("listens", [True, False])
async def test_a_hub_address_that_is_taken_is_named(make: Callable[..., Site], listens: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunFailed, match=rf"hub.address: '127.0.0.1:{port}' is taken"):
            await make(f"hub.address=127.0.0.1:{port}").launcher.start_hub()


@pytest.mark.slow
async def test_a_hub_that_dies_at_its_start_ends_the_run_with_its_last_words(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLSERVE_INSECURE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = make(f"hub.address=0.0.0.0:{port}")  # open to other hosts, and without TLS
    async with run(site, site.learner(FOREVER)) as running:
        with pytest.raises(RunFailed, match=r"(?s)^hub: .*there is no TLS"):
            await running


@pytest.mark.slow
async def test_a_hub_that_is_killed_comes_back_at_its_address(make: Callable[..., Site]) -> None:
    site = make("launch.start_seconds=100")
    async with run(site, site.learner(FOREVER)):
        address = site.launcher.hub_address  # type: ignore[attr-defined]
        await _listening(address)
        hub = next(c for c in psutil.Process().children() if "hub" in c.cmdline())
        os.kill(hub.pid, signal.SIGKILL)
        await until(lambda: site.events("actor_restarted"))
        await _listening(address)
    assert [event["actor"] for event in site.events("actor_died")] == ["hub"]


async def _listening(address: str) -> None:
    from rlserve.launch.ports import answers

    await asyncio.wait_for(answers(address), 100)


def test_an_unknown_launcher_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'locale' is not registered; did you mean 'local'\?"):
        launcher_type("locale")
