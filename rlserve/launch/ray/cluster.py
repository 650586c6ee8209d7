"""A connection to a Ray cluster, and what a run reserves in it.

``connect``  waits for: the cluster's answer, or the start of a local one. Call it in a thread: it blocks.
``Places``   learner ranks are packed on as few nodes as possible, rollout workers spread over as many; both by
             placement groups, which Ray fills again on other nodes when one is lost.
"""

import logging
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlserve.config.tables.launch import RayConfig
from rlserve.errors import ConfigError
from rlserve.launch.gpus import LEARNER, ROLLOUT
from rlserve.launch.ray.needs import Resources

LOCAL = "local"
"""The address that starts a cluster of the run's own."""
REACH_SECONDS = 10.0
"""To reach an address: Ray itself would try for minutes, and then abort the whole process."""
STRATEGIES: Mapping[str, str] = {LEARNER: "PACK", ROLLOUT: "SPREAD"}
"""By kind of process; others have no placement group, and are spread one by one."""


def connect(config: RayConfig, *, cpus: float) -> bool:
    """Connect this process to Ray; True when it was not connected, so that the caller must end the connection.

    A cluster that is started here has at least ``cpus`` cores, in Ray's counting. Raises ConfigError.
    """
    if ray.is_initialized():
        return False
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": config.runtime_env or None}
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise ConfigError(
            f"launch.ray.address: is {address!r}, but the launcher must be on a node of the cluster; start it there, "
            "for example by ray job submit"
        )
    if address not in ("", LOCAL):
        _check_reachable(address)
        ray.init(address=address, **options)
        return True
    if address != LOCAL:
        try:
            # The cluster that runs on this machine.
            ray.init(address="auto", **options)
            return True
        except ConnectionError:
            pass
    # Ray lowers the priority of its workers by 15, which starves them beside anything else on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    cores = max(len(os.sched_getaffinity(0)), math.ceil(cpus))
    ray.init(address=LOCAL, num_cpus=cores, include_dashboard=False, **options)
    return True


def _check_reachable(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(f"launch.ray.address: is {address!r}; give HOST:PORT of the head, or {LOCAL!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"launch.ray.address: no Ray cluster answers at {address!r} ({error}); start one with ray start --head, "
            "or leave it empty for one of the run's own"
        ) from None


def hosts() -> set[str]:
    """Addresses of the nodes."""
    return {str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]}


def own_host() -> str:
    """Address of this node."""
    return str(ray.util.get_node_ip_address())


def gpus() -> float:
    """GPUs of the whole cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def free() -> str:
    """What is not reserved, for people."""
    there = ray.available_resources()
    return f"{there.get('CPU', 0):g} CPU and {there.get('GPU', 0):g} GPU of {len(hosts())} nodes"


@dataclass(slots=True)
class _Slot:
    """One bundle of a placement group."""

    group: Any
    index: int
    holder: str = ""


class Places:
    """Where processes go: reserved bundles, by kind, each for one process at a time."""

    def __init__(self) -> None:
        self._slots: dict[str, list[_Slot]] = {}

    def reserve(self, kind: str, names: Sequence[str], resources: Resources) -> Any:
        """A new placement group for these processes, as far as free bundles do not suffice; None when they do."""
        slots = self._slots.setdefault(kind, [])
        free = [slot for slot in slots if not slot.holder]
        for name, slot in zip(names, free, strict=False):
            slot.holder = name
        rest = names[len(free) :]
        if not rest:
            return None
        group = placement_group([resources.bundle] * len(rest), strategy=STRATEGIES[kind])
        slots += [_Slot(group, index, name) for index, name in enumerate(rest)]
        return group

    def release(self, kind: str, name: str) -> None:
        """The process is gone for good; a group without any process is given back to the cluster."""
        slots = self._slots.get(kind, [])
        for slot in slots:
            if slot.holder == name:
                slot.holder = ""
        for group in {slot.group.id: slot.group for slot in slots}.values():
            mine = [slot for slot in slots if slot.group.id == group.id]
            if not any(slot.holder for slot in mine):
                remove_placement_group(group)
                self._slots[kind] = [slot for slot in self._slots[kind] if slot not in mine]

    def strategy(self, kind: str, name: str) -> Any:
        """Ray's scheduling strategy for a process."""
        for slot in self._slots.get(kind, []):
            if slot.holder == name:
                return PlacementGroupSchedulingStrategy(slot.group, placement_group_bundle_index=slot.index)
        return "SPREAD"

    def close(self) -> None:
        """Give everything back."""
        for group in {slot.group.id: slot.group for slots in self._slots.values() for slot in slots}.values():
            remove_placement_group(group)
        self._slots.clear()
