"""What one program may use."""

import math
from dataclasses import dataclass, fields, replace

from rlserve.errors import InvalidRequest

STARVED_FACTOR = 8.0
"""A box that has waited for a processor until this many times its wall limit is given up, without a verdict."""
MIN_WALL_SECONDS = 1.0
"""A task that asks for less CPU time gets no less wall time than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one box. A request may lower them, never raise them."""

    cpu_seconds: float = 4.0
    """CPU time of each process."""
    wall_seconds: float = 10.0
    """Time from its start, without what it waits for a processor."""
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
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**40:
                raise InvalidRequest(f"limits.{item.name}: is {value!r}; give a positive number")

    @property
    def kernel_seconds(self) -> int:
        """CPU time after which the kernel ends a process by itself. It counts in ticks: on a busy machine it counted a
        second where less than 0.8 were used."""
        return math.ceil(1.5 * self.cpu_seconds) + 1

    @property
    def longest_seconds(self) -> float:
        """Wall time, waits for a processor included, after which a box is given up."""
        return STARVED_FACTOR * max(self.wall_seconds, MIN_WALL_SECONDS)

    def lowered(self, *, cpu_seconds: float | None = None, memory_bytes: int | None = None) -> "Limits":
        """These limits, with less time or memory if that is asked for; the wall limit follows the CPU limit."""
        cpu = min(self.cpu_seconds, cpu_seconds or self.cpu_seconds)
        least = min(self.wall_seconds, MIN_WALL_SECONDS)
        return replace(
            self,
            cpu_seconds=cpu,
            wall_seconds=max(least, self.wall_seconds * cpu / self.cpu_seconds),
            memory_bytes=min(self.memory_bytes, memory_bytes or self.memory_bytes),
        )
