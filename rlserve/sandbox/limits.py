"""The resources that one program may use."""

import math
from dataclasses import dataclass, fields, replace

from rlserve.errors import InvalidRequest

STARVED_FACTOR = 8.0
"""A box that waits for a processor until this many times its wall limit is given up, without a verdict. Any value of
this size will do: a machine with eight runnable processes a core still lets programs finish, and one that is fuller
would hold up all programs behind this one."""
MIN_WALL_SECONDS = 1.0
"""Least wall time of a task that lowers its CPU time: the start of a box, reads and writes take wall time as well."""
KERNEL_SPARE = 1.5
"""The kernel's own CPU limit, as a multiple of the exact one. The kernel counts ticks: on a machine of load 20 it
counted a second where a process used less than 0.8."""
MAX_LIMIT = 2**40
"""A terabyte, or 35,000 years: any value will do that no limit reaches and that a 64-bit ``setrlimit`` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one box. A request may lower them, never raise them."""

    cpu_seconds: float = 4.0
    """CPU time of each process."""
    wall_seconds: float = 10.0
    """Time from its start, without its waits for a processor."""
    memory_bytes: int = 768 * 2**20
    """Address space of each process."""
    processes: int = 8
    """Processes and threads together."""
    open_files: int = 64
    file_bytes: int = 16 * 2**20
    """Largest file, and the size of the scratch directory."""
    files: int = 1024
    """Files and directories in the scratch directory."""
    output_bytes: int = 2**20
    """Standard output and standard error, each; the program is killed when it writes more."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_LIMIT:
                raise InvalidRequest(f"limits.{item.name}: is {value!r}; give a positive number")

    @property
    def kernel_seconds(self) -> int:
        """CPU time after which the kernel kills a process by itself, in case the service reads its account too late."""
        return math.ceil(KERNEL_SPARE * self.cpu_seconds) + 1  # whole seconds: setrlimit takes no fraction

    @property
    def longest_seconds(self) -> float:
        """Wall time, waits for a processor included, after which a box is given up."""
        return STARVED_FACTOR * max(self.wall_seconds, MIN_WALL_SECONDS)

    def lowered(self, *, cpu_seconds: float | None = None, memory_bytes: int | None = None) -> "Limits":
        """These limits with at most so much time and memory; the wall limit shrinks in step with the CPU limit."""
        cpu = min(self.cpu_seconds, cpu_seconds or self.cpu_seconds)
        least = min(self.wall_seconds, MIN_WALL_SECONDS)
        return replace(
            self,
            cpu_seconds=cpu,
            wall_seconds=max(least, self.wall_seconds * cpu / self.cpu_seconds),
            memory_bytes=min(self.memory_bytes, memory_bytes or self.memory_bytes),
        )
