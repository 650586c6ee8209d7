"""One running program, seen from outside: what it wrote, why it was ended, how it ended."""

import contextlib
import json
import math
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rlserve.sandbox.limits import Limits

REAP_SECONDS = 10.0
"""A killed box must be gone within this; it takes a millisecond where a processor is free."""
KEPT_STDERR_BYTES = 8192
MEMORY_EXIT = 86
"""What ``inside/program.py`` exits with after an uncaught MemoryError."""
MAX_STATUS_BYTES = 4096
TICKS_SHARE = 0.8
"""What the kernel killed after this share of its CPU limit was killed for it, see ``Limits.kernel_seconds``."""


class Ending(StrEnum):
    """How a box ended."""

    EXITED = "exited"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    STOPPED = "stopped"
    """Ended by us, because nobody needed it any more."""
    STARVED = "starved"
    """The machine gave it no time to run: nothing is known of the program."""
    LOST = "lost"
    """Its end was not reported: nothing is known of the program."""


@dataclass(slots=True)
class Pipes:
    """Descriptors of a box: ours to read, theirs to hand over."""

    stdout: int
    stderr: int
    control: int
    theirs: Sequence[int]
    """Job, standard input, output and error, control: in the order that the zygote expects."""

    @classmethod
    def make(cls, job: bytes, stdin: bytes) -> "Pipes":
        """Pipes, and files in memory for what goes in."""
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        control_read, control_write = os.pipe2(os.O_CLOEXEC)
        theirs = [_in_memory(job), _in_memory(stdin), out_write, err_write, control_write]
        return cls(out_read, err_read, control_read, theirs)

    def close_theirs(self) -> None:
        """After they were handed over."""
        for descriptor in self.theirs:
            os.close(descriptor)
        self.theirs = ()

    def close_ours(self) -> None:
        """When all is read."""
        for descriptor in (self.stdout, self.stderr, self.control):
            os.close(descriptor)


@dataclass(slots=True)
class Box:
    """A box that was opened; give it to :func:`watch`, then :meth:`close` it."""

    pid: int
    pidfd: int
    pipes: Pipes
    limits: Limits
    started: float = field(default_factory=time.monotonic)
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    stderr_bytes: int = 0
    """Bytes written to standard error; only the last ones are kept."""
    status: bytearray = field(default_factory=bytearray)
    killed: Ending | None = None
    """Why we ended it."""
    killed_at: float = math.inf
    """When, on the monotonic clock."""
    may_count: float = math.inf
    """Counted time (see ``processor_time``) at which it is stopped, if that comes before its wall limit."""
    used_seconds: float = 0.0
    """CPU time of its busiest process, when the account was last read."""
    counted_seconds: float = 0.0
    """Of it and the boxes that it talks with, when the account was last read."""
    closed: bool = False
    """True once it is known to be gone."""

    @property
    def last_moment(self) -> float:
        """When it has been starved for so long that it is given up, on the monotonic clock."""
        return self.started + self.limits.longest_seconds

    def stop(self, why: Ending) -> None:
        """Have its reaper end it and report. The first reason stays."""
        if self.killed is None:
            self.killed, self.killed_at = why, time.monotonic()
            self._signal(signal.SIGTERM)

    def close(self) -> bool:
        """End whatever still runs, wait until it is gone, close the descriptors. False when it does not go."""
        self._signal(signal.SIGKILL)
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        self.closed = bool(poller.poll(REAP_SECONDS * 1000))
        os.close(self.pidfd)
        self.pipes.close_ours()
        return self.closed

    def end(self) -> "End":
        """How it ended, from what its reaper reported. Valid once ``watch`` is through with it."""
        try:
            report = json.loads(self.status)
            status, cpu, peak = int(report["status"]), float(report["cpu_seconds"]), int(report["peak_bytes"])
        except (ValueError, KeyError, TypeError):
            detail = self.status.decode("utf-8", "replace") or "its reaper was lost"
            return End(self.killed or Ending.LOST, 0, 0.0, detail)
        if report.get("late") and self.killed is None:
            return End(Ending.LOST, 0, cpu, "nobody but its reaper ended it")
        return End(*self._classify(status, cpu, peak))

    def _classify(self, status: int, cpu: float, peak: int) -> tuple[Ending, int, float, str]:
        code = os.waitstatus_to_exitcode(status)
        limits = self.limits
        if self.killed is not None:
            return self.killed, code, cpu, self._why_killed(cpu)
        if code in (-signal.SIGXCPU, -signal.SIGKILL) and cpu >= TICKS_SHARE * limits.cpu_seconds:
            return Ending.TIMEOUT, code, cpu, f"used {cpu:.1f} s of CPU time"
        if code == MEMORY_EXIT or (code == -signal.SIGKILL and peak > 0.9 * limits.memory_bytes):
            return Ending.MEMORY, code, cpu, f"needs more than {limits.memory_bytes >> 20} MiB"
        if code < 0:
            return Ending.CRASHED, code, cpu, f"killed by signal {-code}"
        return Ending.EXITED, code, cpu, f"exit code {code}"

    def _why_killed(self, cpu: float) -> str:
        if self.killed is Ending.TIMEOUT and self.used_seconds >= self.limits.cpu_seconds:
            return f"used {self.used_seconds:.1f} s of CPU time"
        if self.killed is Ending.TIMEOUT:
            return f"ran for {self.limits.wall_seconds:g} s ({cpu:.1f} s of CPU time)"
        if self.killed is Ending.STARVED:
            return f"had {cpu:.1f} s of CPU time in {self.killed_at - self.started:.0f} s, and waited for a processor"
        if self.killed is Ending.OUTPUT_LIMIT:
            return f"wrote more than {self.limits.output_bytes} bytes"
        return "was ended, as nobody needed it any more"

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a box."""

    ending: Ending
    exit_code: int
    """Negative: the signal."""
    cpu_seconds: float
    detail: str
    """One line for people."""


@dataclass(slots=True)
class Channel:
    """A pipe on which a box reports; at most ``max_bytes`` of it are believed."""

    descriptor: int
    max_bytes: int = 65536
    content: bytearray = field(default_factory=bytearray)
    closed: bool = False


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("job", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
