"""One running program, seen from outside: what it writes, how long it may run, how it ended."""

import contextlib
import json
import math
import os
import select
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rlserve.sandbox.limits import Limits

REAP_SECONDS = 2.0
"""A killed box must be gone within this."""
KEPT_STDERR_BYTES = 8192
MEMORY_EXIT = 86
"""What ``inside/program.py`` exits with after an uncaught MemoryError."""
MAX_STATUS_BYTES = 4096
MAX_PROCESSES = 256
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
TICKS_SHARE = 0.8
"""A program that was killed after this share of its CPU limit was killed for it: the kernel counts in ticks, and on a
busy machine it counted 4 s where 3.84 s were used."""


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
    last_moment: float = math.inf
    """A time on the monotonic clock at which it is stopped, if that comes before its wall limit."""
    closed: bool = False
    """True once it is known to be gone."""
    waited_seconds: float = 0.0
    """How long its program waited for a core, when the wall limit ran out."""
    used_seconds: float = 0.0
    """CPU time of all its processes at that moment: what they took from each other is no starvation."""

    @property
    def deadline(self) -> float:
        """When we end it, on the monotonic clock."""
        return min(self.started + self.limits.wall_seconds, self.last_moment)

    def stop(self, why: Ending) -> None:
        """Have its reaper end it and report. The first reason stays."""
        if self.killed is None:
            self.killed = why
            if why is Ending.TIMEOUT:
                self.waited_seconds, self.used_seconds = _waited_seconds(self.pid), cpu_seconds_below(self.pid)
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
        """How it ended, from what its reaper reported. Valid once :func:`watch` is through with it."""
        try:
            report = json.loads(self.status)
            status, cpu, peak = int(report["status"]), float(report["cpu_seconds"]), int(report["peak_bytes"])
        except (ValueError, KeyError, TypeError):
            detail = self.status.decode("utf-8", "replace") or "its reaper was lost"
            return End(self.killed or Ending.LOST, 0, 0.0, detail)
        return End(*self._classify(status, cpu, peak))

    def _classify(self, status: int, cpu: float, peak: int) -> tuple[Ending, int, float, str]:
        code = os.waitstatus_to_exitcode(status)
        limits = self.limits
        if self.killed is Ending.TIMEOUT:
            idle = max(cpu, self.used_seconds) < 0.5 * limits.cpu_seconds
            if idle and self.waited_seconds > 0.5 * limits.wall_seconds:
                return Ending.STARVED, code, cpu, f"waited {self.waited_seconds:.1f} s for a core"
            return Ending.TIMEOUT, code, cpu, f"ran for {limits.wall_seconds:g} s ({cpu:.1f} s of CPU time)"
        if self.killed is not None:
            return self.killed, code, cpu, f"wrote more than {limits.output_bytes} bytes"
        if code in (-signal.SIGXCPU, -signal.SIGKILL) and cpu >= TICKS_SHARE * limits.cpu_seconds:
            return Ending.TIMEOUT, code, cpu, f"used {cpu:.1f} s of CPU time"
        if code == MEMORY_EXIT or (code == -signal.SIGKILL and peak > 0.9 * limits.memory_bytes):
            return Ending.MEMORY, code, cpu, f"needs more than {limits.memory_bytes >> 20} MiB"
        if code < 0:
            return Ending.CRASHED, code, cpu, f"killed by signal {-code}"
        return Ending.EXITED, code, cpu, f"exit code {code}"

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
    last_moment: float = math.inf
    """A time on the monotonic clock at which it is stopped, if that comes before its wall limit."""
    closed: bool = False


def watch(boxes: Iterable[Box], channels: Iterable[Channel] = (), *, until_closed: Channel | None = None) -> None:
    """Read until every box has ended, or until ``until_closed`` is; end those that go over a limit.

    waits for: output, ends. unblocked by: the boxes' reapers, which end them at the wall limit even without us.
    """
    boxes, channels = list(boxes), list(channels)
    poller = select.poll()
    handlers: dict[int, _Reader] = {box.pipes.stdout: _Stdout(box) for box in boxes}
    handlers |= {box.pipes.stderr: _Stderr(box) for box in boxes}
    handlers |= {box.pipes.control: _Control(box) for box in boxes}
    handlers |= {channel.descriptor: _Report(channel) for channel in channels}
    for descriptor in handlers:
        poller.register(descriptor, select.POLLIN)
    running = {descriptor for box in boxes for descriptor in (box.pipes.control, box.pipes.stdout)}
    while running and not (until_closed and until_closed.closed):
        now = time.monotonic()
        for box in boxes:
            if now >= box.deadline:
                box.stop(Ending.TIMEOUT if box.last_moment > now else Ending.STOPPED)
            if now >= box.deadline + REAP_SECONDS:
                running -= {box.pipes.control, box.pipes.stdout}
        left = min((box.deadline if box.killed is None else box.deadline + REAP_SECONDS) for box in boxes) - now
        for descriptor, _ in poller.poll(max(1.0, left * 1000 + 1)):
            content = os.read(descriptor, 65536)
            handlers[descriptor].take(content)
            if not content:
                poller.unregister(descriptor)
                running.discard(descriptor)


class _Reader:
    """Takes what one descriptor gives; empty at its end."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def take(self, content: bytes) -> None:
        raise NotImplementedError


class _Stdout(_Reader):
    def take(self, content: bytes) -> None:
        room = self._box.limits.output_bytes - len(self._box.stdout)
        self._box.stdout += content[:room]
        if len(content) > room:
            self._box.stop(Ending.OUTPUT_LIMIT)


class _Stderr(_Reader):
    def take(self, content: bytes) -> None:
        self._box.stderr_bytes += len(content)
        self._box.stderr = (self._box.stderr + content)[-KEPT_STDERR_BYTES:]
        if self._box.stderr_bytes > self._box.limits.output_bytes:
            self._box.stop(Ending.OUTPUT_LIMIT)


class _Control(_Reader):
    def take(self, content: bytes) -> None:
        self._box.status += content[:MAX_STATUS_BYTES]


class _Report(_Reader):
    """A channel's content; has no box."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def take(self, content: bytes) -> None:
        self._channel.content += content[: self._channel.max_bytes - len(self._channel.content)]
        self._channel.closed = not content


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("job", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _waited_seconds(reaper: int) -> float:
    """How long the program under this reaper waited for a core; 0 when the kernel does not say."""
    try:
        with open(f"/proc/{_children(reaper)[0]}/schedstat") as schedstat:
            return int(schedstat.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def cpu_seconds_below(pid: int) -> float:
    """CPU time of all living descendants; 0 when the kernel does not say."""
    total, waiting = 0.0, _children(pid)
    for _ in range(MAX_PROCESSES):  # a program may fork on while it is counted
        if not waiting:
            break
        process = waiting.pop()
        waiting += _children(process)
        try:
            with open(f"/proc/{process}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
    return total


def _children(pid: int) -> list[int]:
    """Of all threads of a process."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as children:
                found += map(int, children.read().split())
    except OSError:
        pass
    return found
