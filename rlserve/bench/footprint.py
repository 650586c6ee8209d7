"""Descriptors and memory that processes and their descendants hold at one moment."""

from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Footprint:
    """Sums over living processes."""

    descriptors: int
    unshared_bytes: int
    """Memory of these processes alone: shared pages (of a fork, of a library) would count once for each process."""


def footprint(pids: Iterable[int]) -> Footprint:
    """Sum over the processes and their descendants; one that ends meanwhile counts nothing."""
    descriptors = unshared = 0
    for pid in pids:
        # Zygotes and boxes are children of judge processes, which a look at these alone would miss.
        for process in _with_descendants(pid):
            try:
                opened, memory = process.num_fds(), process.memory_full_info().uss
            except psutil.NoSuchProcess:
                continue
            descriptors, unshared = descriptors + opened, unshared + memory
    return Footprint(descriptors, unshared)


def _with_descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
