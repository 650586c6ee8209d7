"""One running program, seen from outside: its output, why it was killed, how it ended."""

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
"""A traceback's last lines fit; any value of this size will do."""
MEMORY_EXIT = 86
"""``inside/program.py`` exits with this code after an uncaught MemoryError."""
MAX_STATUS_BYTES = 4096
"""A reaper's report is about 100 bytes; the bound keeps a box that wrote there itself from filling our memory."""
TICKS_SHARE = 0.8
"""A process that the kernel killed after this share of its CPU limit was killed for the limit. The kernel counts ticks,
which run ahead of the exact account on a busy machine: measured were kills at 3.84 of 4 s, and below 0.8 of 1 s."""
MEMORY_SHARE = 0.9
"""A process that was killed while it held more than this share of its memory limit is taken to be a victim of the
kernel's out-of-memory killer: any value near 1 will do, since the limit counts address space and the peak resident
memory, which is a little less."""


class Ending(StrEnum):
    """How a box ended."""

    EXITED = "exited"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    STOPPED = "stopped"
    """The service ended it because its result was no longer needed."""
    STARVED = "starved"
    """The machine gave it no processor time: this is no evidence about the program."""
    LOST = "lost"
    """Its reaper did not report the end: this is no evidence about the program."""


@dataclass(slots=True)
class Pipes:
    """Descriptors of a box: the ends that the service reads, and those that the box is given."""

    stdout: int
    stderr: int
    control: int
    theirs: Sequence[int]
    """Job, standard input, output and error, control: in the order that the zygote expects."""

    @classmethod
    def make(cls, job: bytes, stdin: bytes) -> "Pipes":
        """Create pipes for the output, and files in memory that hold the input."""
        # Input is a file, not a pipe: a pipe holds 64 KiB, and would block its writer until the program reads.
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        control_read, control_write = os.pipe2(os.O_CLOEXEC)
        theirs = [_in_memory(job), _in_memory(stdin), out_write, err_write, control_write]
        return cls(out_read, err_read, control_read, theirs)

    def close_theirs(self) -> None:
        """Close the box's ends, once the box has copies; output then ends when the box closes its last copy."""
        for descriptor in self.theirs:
            os.close(descriptor)
        self.theirs = ()

    def close_ours(self) -> None:
        """Close the service's ends, once everything is read."""
        for descriptor in (self.stdout, self.stderr, self.control):
            os.close(descriptor)


@dataclass(slots=True)
class Box:
    """An open box: give it to :func:`watch`, then :meth:`close` it, then ask for its :meth:`end`.

    For example::

        box = zygote.open("program", {"source": "print(input())"}, Limits(), b"hello")
        watch([box])          # reads until the program and its reaper end, or a limit kills it
        box.close()           # True: no process of it is left
        bytes(box.stdout)     # b"hello\\n"
        box.end()             # End(ending=Ending.EXITED, exit_code=0, cpu_seconds=0.01, detail="exit code 0")
    """

    pid: int
    pidfd: int
    pipes: Pipes
    limits: Limits
    started: float = field(default_factory=time.monotonic)
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    stderr_bytes: int = 0
    """Number of bytes written to standard error; ``stderr`` keeps only the last ones."""
    status: bytearray = field(default_factory=bytearray)
    """The reaper's report, as JSON."""
    killed: Ending | None = None
    """Why the service ended it; None while it runs and when it ended by itself."""
    killed_at: float = math.inf
    """When the service ended it, on the monotonic clock."""
    may_count: float = math.inf
    """Counted time (see ``processor_time``) at which it is stopped, if that comes before its wall limit."""
    used_seconds: float = 0.0
    """CPU time of its busiest process, at the last reading."""
    counted_seconds: float = 0.0
    """Counted time of this box and the boxes that it talks with, at the last reading."""
    closed: bool = False
    """True once no process of it is left."""

    @property
    def last_moment(self) -> float:
        """When a starved box is given up, on the monotonic clock."""
        return self.started + self.limits.longest_seconds

    def stop(self, why: Ending) -> None:
        """Ask its reaper to kill the program and to report. The first reason stays."""
        # SIGTERM, not SIGKILL: a killed reaper could not report CPU time and exit status any more.
        if self.killed is None:
            self.killed, self.killed_at = why, time.monotonic()
            self._signal(signal.SIGTERM)

    def close(self) -> bool:
        """Kill all that still runs, wait until it is gone, close the descriptors. False when it did not end in time."""
        # The reaper is process 1 of its pid namespace: with it the kernel kills every process that the program left. In
        # tier landlock there is only the runner, which dies with its parent.
        self._signal(signal.SIGKILL)
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        self.closed = bool(poller.poll(REAP_SECONDS * 1000))
        os.close(self.pidfd)
        self.pipes.close_ours()
        return self.closed

    def end(self) -> "End":
        """How it ended, according to its reaper's report. Valid once ``watch`` returned."""
        try:
            report = json.loads(self.status)
            status, cpu, peak = int(report["status"]), float(report["cpu_seconds"]), int(report["peak_bytes"])
        except (ValueError, KeyError, TypeError):
            detail = self.status.decode("utf-8", "replace") or "its reaper did not report"
            return End(self.killed or Ending.LOST, 0, 0.0, detail)
        # The reaper's own deadline lies behind all limits: when it struck, the service itself was too late to measure.
        if report.get("late") and self.killed is None:
            return End(Ending.LOST, 0, cpu, "its reaper ended it, after the service did not")
        return End(*self._classify(status, cpu, peak))

    def _classify(self, status: int, cpu: float, peak: int) -> tuple[Ending, int, float, str]:
        code = os.waitstatus_to_exitcode(status)
        limits = self.limits
        if self.killed is not None:
            return self.killed, code, cpu, self._why_killed(cpu)
        # From here the service killed nothing, so a signal came from the kernel or from the program.
        if code in (-signal.SIGXCPU, -signal.SIGKILL) and cpu >= TICKS_SHARE * limits.cpu_seconds:
            return Ending.TIMEOUT, code, cpu, f"used {cpu:.1f} s of CPU time"
        if code == MEMORY_EXIT or (code == -signal.SIGKILL and peak > MEMORY_SHARE * limits.memory_bytes):
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
        return "was ended because its result was no longer needed"

    def _signal(self, number: int) -> None:
        # By pidfd: a process id could belong to another process by now.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


@dataclass(frozen=True, slots=True)
class End:
    """How a box ended."""

    ending: Ending
    exit_code: int
    """The exit code; the negative number of the signal that killed it."""
    cpu_seconds: float
    detail: str
    """One line for people."""


@dataclass(slots=True)
class Channel:
    """A pipe on which a box reports; :func:`watch` keeps its first ``max_bytes``."""

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
