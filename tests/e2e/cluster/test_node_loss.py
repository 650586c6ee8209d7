"""A whole run on a Ray cluster of three nodes, one of which is lost in the middle of it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.whole, pytest.mark.slow, pytest.mark.timeout(900)]
STORE_BYTES = 80 * 2**20
"""Of Ray's object store, the least that it takes; nothing of a run goes through it."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two hosts with room for everything each, and a head where the launcher is; each has an address of its own."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RLSERVE_INSECURE", "1")
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    made = Cluster(initialize_head=True, head_node_args=head)
    for host in ("127.0.0.2", "127.0.0.3"):
        made.add_node(num_cpus=3, object_store_memory=STORE_BYTES, node_ip_address=host)
    yield made
    made.shutdown()


def hosts_of(run: Any) -> dict[str, str]:
    """Where actors say that they listen."""
    command = [sys.executable, "-m", "rlserve.cli.main", "status", str(run.root), "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout)
    return {actor["actor_id"]: actor["address"].rpartition(":")[0] for actor in answer["actors"]}


def test_a_run_outlives_the_node_of_its_learner(
    cluster: Any, new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]]
) -> None:
    """The learner goes on elsewhere from its checkpoint, and no group is lost or trained on twice."""
    run = new_run("nodes")
    # A policy that stays as it is: one that learns leaves ever fewer groups that teach, and a step waits for others.
    sets = ("steps=10", "learner.lr=1e-9", "rollout.workers=2", "checkpoint.every_steps=3")
    options = [part for pair in sets for part in ("--set", pair)]
    run.start(*small_run_arguments(run), *options, "--on", "ray", "--ray-address", cluster.address)
    run.wait_for_step(4, 400)
    hosts = hosts_of(run)
    assert hosts["rollout-0"] != hosts["rollout-1"]
    pids = [run.pid_of(actor) for actor, host in hosts.items() if host == hosts["learner"]]
    (lost,) = [node for node in cluster.worker_nodes if node.node_ip_address == hosts["learner"]]
    cluster.remove_node(lost, allow_graceful=False)
    assert run.wait(500) == 0, run.tail()
    gone = {actor for actor, host in hosts.items() if host == hosts["learner"]}
    died = run.events("actor_died")
    assert gone <= {event["actor"] for event in died}
    assert {e["how"] for e in died if e["actor"] == "learner"} == {
        f"lost with its Ray actor on node {hosts['learner']}"
    }
    assert re.search(r"resuming from step [369]", Path(run.root / "logs" / "learner.log").read_text())
    assert not any(psutil.pid_exists(pid) for pid in pids)
    summary = run.summary()
    check_counts_add_up(summary["groups"])
    assert summary["steps"] == 10 and "learner" in summary["recovery_seconds"]
    assert [row["step"] for row in run.metrics()] == list(range(1, 11))
    assert run.metrics()[-1]["groups/consumed"] == 10 * run.metrics()[0]["batch/groups"]
    run.wait_until_nothing_runs()
