"""What one program may use."""

from dataclasses import dataclass, fields

from rlserve.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one box. A request may lower them, never raise them."""

    cpu_seconds: float = 4.0
    """CPU time of each process; checked to the second by the kernel."""
    wall_seconds: float = 10.0
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

    def lowered(self, *, cpu_seconds: float | None = None, memory_bytes: int | None = None) -> "Limits":
        """These limits, with less time or memory if that is asked for; the wall limit follows the CPU limit."""
        cpu = min(self.cpu_seconds, cpu_seconds or self.cpu_seconds)
        return Limits(
            cpu_seconds=cpu,
            wall_seconds=self.wall_seconds * cpu / self.cpu_seconds,
            memory_bytes=min(self.memory_bytes, memory_bytes or self.memory_bytes),
            processes=self.processes,
            open_files=self.open_files,
            file_bytes=self.file_bytes,
            files=self.files,
            output_bytes=self.output_bytes,
        )
