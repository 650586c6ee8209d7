"""The Ray launcher on a cluster of several nodes, each with an address of its own; and what it plans without one."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlserve.cli.main import main
from rlserve.config.load import load_run, to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.launch import RayConfig
from rlserve.errors import ConfigError
from rlserve.launch.base import RunFailed
from rlserve.launch.plan import ProcessSpec, plan_processes
from rlserve.launch.ray.cluster import connect
from rlserve.launch.ray.keeper import Keeper, Site, token_file
from rlserve.launch.ray.launcher import RayLauncher, check_ray
from rlserve.launch.ray.needs import resources_of
from rlserve.observability.events import read_json_lines

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"
BASE: dict[str, Any] = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}
FAST = ("launch.restart_backoff_seconds=0.01", "launch.stop_seconds=5", "rollout.workers=2")
STORE_BYTES = 80 * 2**20
"""Of Ray's object store, the least that it takes; nothing of a run goes through it."""


def shares(cluster_gpus: float, **launch: Any) -> dict[str, float]:
    values = {**BASE, "learner": {"ranks": 2}, "rollout": {"workers": 2}, "launch": {"type": "ray", **launch}}
    config = validate(RunConfig, values)
    specs = plan_processes(config, Path("r"), hub_address="h:1")
    return {spec.name: resources_of(spec, config, cluster_gpus=cluster_gpus).gpus for spec in specs}


def test_gpus_are_shared_out_by_number() -> None:
    assert set(shares(0).values()) == {0.0}
    assert {name for name, gpus in shares(8).items() if gpus == 1.0} == {
        "learner", "learner-rank-1", "rollout-0", "rollout-1",
    }  # fmt: skip
    assert shares(8, gpus={"rollout": 1})["rollout-1"] == 0.5
    assert sum(shares(1).values()) <= 1


def test_gpus_by_their_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"launch.gpus.learner: is \[0, 1\], but Ray chooses"):
        check_ray(validate(RunConfig, {**BASE, "launch": {"type": "ray", "gpus": {"learner": [0, 1]}}}))
    with pytest.raises(ConfigError, match=r"launch.ray.cpus: names 'hub'"):
        validate(RunConfig, {**BASE, "launch": {"ray": {"cpus": {"hub": 1}}}})


def test_the_plan_says_what_ray_reserves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(QUICK), "--on", "ray", "--dry-run", "--no-preflight"]) == 0
    plan = capsys.readouterr().out
    assert "# learner (1 CPU): " in plan and "# rollout-0 (1 CPU): " in plan and "# verifier-0 (no share): " in plan


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"launch.ray.address: no Ray cluster answers at '127.0.0.1:1'"),
        ("ray://head:10001", r"must be on a node of the cluster"),
        ("head", r"launch.ray.address: is 'head'; give HOST:PORT"),
    ],
)
def test_an_address_that_is_no_cluster_is_named(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=message):
        connect(RayConfig(address=address), cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=message):
        connect(RayConfig(), cpus=1)


def test_a_node_without_the_run_directory_is_named(tmp_path: Path) -> None:
    keeper = Keeper(Site(root=tmp_path, token="a", directory="", launcher="10.0.0.1", several=True))
    assert "does not see the run directory" in keeper._problem("10.0.0.2")
    token_file(tmp_path).write_text("another run's")
    assert "set --set directory=DIRECTORY" in keeper._problem("10.0.0.2")
    token_file(tmp_path).write_text("a")
    assert keeper._problem("10.0.0.2") == ""
    alone = Keeper(Site(root=tmp_path, token="a", directory="", launcher="10.0.0.1", several=False))
    assert alone._problem("10.0.0.1") == "" and "joined the cluster after" in alone._problem("10.0.0.2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second host, which here is another loopback address."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_worker_niceness", "0")  # as of a cluster that a launcher starts
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_BYTES},
    )
    made.add_node(num_cpus=2, object_store_memory=STORE_BYTES, node_ip_address="127.0.0.2")
    yield made
    made.shutdown()
    patch.undo()


class Run:
    """A run directory, its launcher, and processes that note what they see."""

    def __init__(self, root: Path, address: str, *settings: str) -> None:
        self.paths = RunPaths(root / "run")
        self.paths.root.mkdir()
        self.config = load_run([QUICK], [*FAST, f"launch.ray.address={address}", "launch.type=ray", *settings])
        self.paths.config.write_text(to_toml(self.config), encoding="utf-8")
        self.launcher = RayLauncher(self.config, self.paths, digest="")

    def spec(self, name: str, program: str) -> ProcessSpec:
        begin = (
            "import os, sys, time, pathlib\n"
            "from rlserve.actors.process import die_with_parent\n"
            "parent = os.getppid(); die_with_parent()\n"
            f"root = pathlib.Path({str(self.paths.root)!r})\n"
            "say = lambda *words: print(os.getpid(), parent, *words, flush=True)\n"
            "say(os.environ.get('RLSERVE_INSECURE'), *sys.argv[1:])\n"
        )
        kind = name.split("-")[0]
        command = (sys.executable, "-c", begin + program)
        return ProcessSpec(name=name, kind=kind, command=command, restartable=kind != "learner")

    def said(self, name: str) -> list[list[str]]:
        log = self.paths.logs / f"{name}.log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def events(self, name: str) -> list[Any]:
        return [event for event in read_json_lines(self.paths.events) if event["event"] == name]


async def lived(site: Run, specs: Sequence[ProcessSpec], meanwhile: Any) -> list[str]:
    await site.launcher.start_hub()
    running = asyncio.create_task(site.launcher.run(specs))
    try:
        async with asyncio.timeout(100):
            await asyncio.gather(running, meanwhile)
    finally:
        site.launcher.request_stop()
        await asyncio.gather(running, return_exceptions=True)
        killed = await site.launcher.close()
    return killed


async def test_processes_are_spread_over_nodes_and_die_with_their_ray_actor(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLSERVE_INSECURE", "1")  # the nodes have addresses beyond loopback
    site = Run(tmp_path, cluster.address)
    forever = "time.sleep(600)"
    learner = site.spec("learner", "while not (root / 'over').exists(): time.sleep(0.05)")
    workers = [site.spec(f"rollout-{i}", forever) for i in range(2)]

    async def kill_a_keeper() -> None:
        while not all(site.said(f"rollout-{i}") for i in range(2)):
            await asyncio.sleep(0.05)
        process, keeper = map(int, site.said("rollout-1")[0][:2])
        os.kill(keeper, signal.SIGKILL)
        while len(site.said("rollout-1")) < 2:
            await asyncio.sleep(0.05)
        # Its parent's death kills it; the kernel may take a moment, and the new one may be quicker.
        while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)
        (site.paths.root / "over").touch()

    assert await lived(site, [learner, *workers], kill_a_keeper()) == []
    lines = [site.said("learner")[0], *(site.said(f"rollout-{i}")[0] for i in range(2))]
    for line in lines:
        assert line[2] == "1" and line[3] == "--address"  # what the launcher's user set, and where to listen
    hosts = [line[4].rpartition(":")[0] for line in lines[1:]]
    assert len(set(hosts)) == 2 and "127.0.0.2" in hosts
    (died,) = site.events("actor_died")
    assert died["actor"] == "rollout-1" and died["how"] == f"lost with its Ray actor on node {hosts[1]}"
    assert not any(psutil.pid_exists(int(line[0])) for name in ("rollout-0", "rollout-1") for line in site.said(name))
    assert not (site.paths.root / "shared.token").exists()


async def test_a_cluster_without_room_is_named(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLSERVE_INSECURE", "1")
    site = Run(tmp_path, cluster.address, "launch.ray.wait_seconds=1", "launch.ray.cpus.rollout=50")
    with pytest.raises(RunFailed, match=r"had no room for 1 x 50 CPU for rollout within 1 s .launch.ray.wait_seconds"):
        await lived(site, [site.spec("learner", ""), site.spec("rollout-0", "")], asyncio.sleep(0))
