"""Memory of this machine, or of one that is named: GPUs and host. Loads no library."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

GIGABYTE = 10**9
"""A card "of 80 GB" has 79 to 80 times 2^30 bytes: with 10^9 the plan leaves 5 GiB for holes between tensors."""
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
QUERY_SECONDS = 10.0
"""A driver that was idle takes a second or two for each card."""
NAMED = re.compile(r"(?P<gpus>one|\d+) GPUs? of (?P<size>\d+) GB(?: (?:and|with) (?P<memory>\d+) GB of memory)?")
"""In the first line of a configuration, e.g. "on 8 GPUs of 80 GB and 512 GB of memory"."""
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Files below /sys/fs/cgroup with the limit of this container, versions 2 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a plan must fit into."""

    name: str
    gpus: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each GPU, by the name that ``CUDA_VISIBLE_DEVICES`` has for it; 0 where that is not known."""
    memory: int = 0
    """Bytes of the host; 0: not known."""
    shared: int | None = None
    """Bytes free in shared memory; None: not known."""


def named(text: str) -> Machine | None:
    """The machine that a line names; None when it names none."""
    found = NAMED.search(text)
    if found is None:
        return None
    count = 1 if found["gpus"] == "one" else int(found["gpus"])
    return of(count, float(found["size"]), float(found["memory"] or 0), name=found[0])


def of(gpus: int, gigabytes: float, memory: float, *, name: str = "the machine given") -> Machine:
    """A machine of equal GPUs; sizes in GB."""
    size = int(gigabytes * GIGABYTE)
    return Machine(name=name, gpus={str(i): size for i in range(gpus)}, memory=int(memory * GIGABYTE))


def here(gpus: Sequence[str], shared: int) -> Machine:
    """This machine, with the GPUs of these names and ``shared`` bytes free in shared memory."""
    sizes = _gpu_sizes() if gpus else {}
    return Machine(
        name="this machine",
        gpus={name: sizes.get(name, 0) for name in gpus},
        memory=_host_memory(),
        shared=shared,
    )


def _gpu_sizes() -> Mapping[str, int]:
    """Bytes by index and by uuid; empty where the driver's tool gives no answer."""
    try:
        told = subprocess.run(QUERY, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    sizes: dict[str, int] = {}
    for line in told.splitlines():
        index, uuid, mebibytes = (part.strip() for part in line.split(","))
        if mebibytes.isdecimal():  # "[N/A]" where memory is shared with the host
            sizes[index] = sizes[uuid] = int(mebibytes) * 2**20
    return sizes


def _host_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    total = int(psutil.virtual_memory().total)
    for name in LIMITS:
        try:
            limit = (cgroup / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return min(total, int(limit)) if limit.isdecimal() else total
    return total
