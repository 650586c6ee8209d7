"""Counted time: wall time minus the time in which the measured processes waited for a processor.

For each thread the kernel accounts how long it ran, and how long it stood in a run queue, ready to run, while others
ran (``/proc/PID/task/TID/schedstat``). A limit that decides a reward must leave the second out, since it measures the
load of the machine. A thread that sleeps or waits for input stands in no run queue, so that this time counts.

The threads of all processes of a tree combine as follows, in each interval between two readings:

- *used* and *waited* are sums over all threads, those that began in the interval included. A thread that ended is
assumed
  to have waited as in the interval before. When all threads ended, nothing counts: the report of their end is on its
  way.
- The counted time is the interval minus *waited*, since mostly one thread works and the others wait for its result (as
in
  calls from one process to another). It is at least *used* divided by the number of processors: a tree that fills the
  machine by itself waits for itself.
- The kernel adds a wait when it ends. A thread that is ready and neither ran nor waited since the last reading is
  therefore assumed to wait. Waiting in excess of an interval is subtracted from the interval before it, then from the
  next one.
- An interval counts at most as long as it was meant to be: a reader that comes late was itself kept waiting.

Where the kernel does not account waiting, all wall time counts.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
MAX_PROCESSES = 256
"""Processes of a tree that one reading visits. Any value far above what a box may have will do: a program that forks in
a loop would otherwise keep its reader busy."""
READ_EVERY_SECONDS = 0.5
"""Usual time between readings. Shorter costs processor time; longer makes the assumption about threads that ended
worse, and delays the end of what exceeds a limit."""
UNEXPLAINED_SECONDS = 0.005
"""A ready thread with more time than this that the kernel counted neither as running nor as waiting is still in a wait.
Any value of this size will do: above the rounding of the accounts, and far below an interval."""


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Sums over threads, from the beginning of each."""

    used_seconds: float = 0.0
    """Time in which they ran."""
    waited_seconds: float = 0.0
    """Time in which they were ready to run, and others ran."""

    def __add__(self, other: "ProcessorTime") -> "ProcessorTime":
        return ProcessorTime(self.used_seconds + other.used_seconds, self.waited_seconds + other.waited_seconds)

    def since(self, earlier: "ProcessorTime") -> "ProcessorTime":
        """The difference to an earlier reading."""
        used, waited = self.used_seconds - earlier.used_seconds, self.waited_seconds - earlier.waited_seconds
        # Accounts only grow: a smaller one belongs to a new thread with the number of one that ended.
        return self if used < 0 or waited < 0 else ProcessorTime(used, waited)


def processor_time(*pids: int) -> ProcessorTime:
    """The processor time of these processes and all their living descendants; 0 for processes that are gone."""
    return sum(_threads(pids).values(), start=ProcessorTime())


Thread = tuple[int, int]
"""Process and thread number."""


def busiest_process(*pids: int) -> float:
    """CPU seconds of that process of these trees which used most, its ended threads included."""
    return max((_process_seconds(pid) for pid in _processes(pids)), default=0.0)


class CountedTime:
    """Measures the counted time of a tree of processes.

    Call :meth:`read` about every ``read_every`` seconds::

        time = CountedTime(process.pid)
        while not ended(process):
            sleep(READ_EVERY_SECONDS)
            if time.read() > limit_seconds and time.is_settled:
                process.kill()
        # A process that computes for 3 s and stands ready for 5 s, on a full machine: wall_seconds 8, waited_seconds 5,
        # counted_seconds 3.
    """

    def __init__(
        self,
        *pids: int,
        born: float | None = None,
        read_every: float = READ_EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pids`` are the roots; all their descendants count too.

        ``born`` is when the processes began, on ``clock``: time then counts from that moment, and the first reading is
        saved. Without it, time counts from now.
        """
        self.wall_seconds = 0.0
        self.used_seconds = 0.0
        self.waited_seconds = 0.0
        self.counted_seconds = 0.0
        """Counted time up to the last reading, like the three sums above."""
        self._pids, self._clock = pids, clock
        self._longest = 2 * read_every  # twice: a reader that is a little late must not lose counted time
        self._num_processors = len(os.sched_getaffinity(0))
        self._owed = self._doubtful = self._interval = 0.0
        self._parts: dict[Thread, ProcessorTime] = {}
        self.last_reading = clock() if born is None else born
        self._threads = _threads(pids) if born is None else {}
        self._unfinished: dict[Thread, float] = {}
        """Assumed waits by thread, which the kernel has still to add."""

    def read(self) -> float:
        """Read the accounts and return the counted seconds up to now."""
        now, threads = self._clock(), _threads(self._pids)
        interval = now - self.last_reading
        ended = self._waited_at_the_end(threads, interval)
        self._parts = {thread: self._added(thread, time, interval) for thread, time in threads.items()}
        added = sum(self._parts.values(), start=ProcessorTime(waited_seconds=self._owed + ended))
        self.wall_seconds += interval
        self.used_seconds += added.used_seconds
        self.waited_seconds += min(interval, added.waited_seconds)
        self._take_back(added.waited_seconds - interval)
        part = counted(min(interval, self._longest), added, self._num_processors) if threads else 0.0
        self._doubtful = part - min(interval, added.used_seconds / self._num_processors)
        self.counted_seconds += part
        self.last_reading, self._interval, self._threads = now, interval, threads
        return self.counted_seconds

    @property
    def is_settled(self) -> bool:
        """False while a thread may be in a wait that the kernel adds at its end; the counted time may still fall."""
        return not any(
            self._interval - part.used_seconds - part.waited_seconds > UNEXPLAINED_SECONDS and _is_ready(thread)
            for thread, part in self._parts.items()
        )

    def _waited_at_the_end(self, threads: Mapping[Thread, ProcessorTime], interval: float) -> float:
        """The assumed waiting of threads that ended in the interval: the same share of it as in the interval before."""
        ended = (part.waited_seconds for thread, part in self._parts.items() if thread not in threads)
        return sum(min(1.0, waited / self._interval) for waited in ended if self._interval) * interval

    def _take_back(self, excess: float) -> None:
        """Subtract waiting in excess of the interval from the one before, which counted it; carry the rest forward."""
        taken = min(max(0.0, excess), self._doubtful)
        self.counted_seconds -= taken
        self._owed = min(max(0.0, excess - taken), self._longest)

    def _added(self, thread: Thread, time: ProcessorTime, interval: float) -> ProcessorTime:
        """A thread's part in the interval: what the kernel added, or an assumed wait, less what was assumed before."""
        added = time.since(self._threads.get(thread, ProcessorTime()))
        known = self._unfinished.pop(thread, 0.0)
        if added == ProcessorTime() and _is_ready(thread):
            self._unfinished[thread] = known + interval
            return ProcessorTime(0.0, interval)
        return ProcessorTime(added.used_seconds, max(0.0, added.waited_seconds - known))


def counted(interval: float, added: ProcessorTime, num_processors: int) -> float:
    """The counted part of an interval in which all threads together ran and waited for ``added``."""
    own = min(interval, added.used_seconds / num_processors)
    return max(0.0, own, interval - added.waited_seconds)


def _threads(pids: tuple[int, ...]) -> Mapping[Thread, ProcessorTime]:
    """The processor time of each living thread of the trees."""
    found: dict[Thread, ProcessorTime] = {}
    for pid in _processes(pids):
        with contextlib.suppress(OSError):  # the process ended meanwhile
            for thread in os.listdir(f"/proc/{pid}/task"):
                found[pid, int(thread)] = _thread(f"/proc/{pid}/task/{thread}")
    return found


def _processes(pids: tuple[int, ...]) -> Iterator[int]:
    """The roots and all their living descendants."""
    waiting = list(pids)
    for _ in range(MAX_PROCESSES):
        if not waiting:
            break
        pid = waiting.pop()
        yield pid
        with contextlib.suppress(OSError):
            # A child is listed under the thread that forked it.
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as children:
                    waiting += map(int, children.read().split())


def _process_seconds(pid: int) -> float:
    try:
        fields = _status(f"/proc/{pid}")
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS  # utime and stime of proc(5), which keep ended threads


def _thread(path: str) -> ProcessorTime:
    try:
        with open(f"{path}/schedstat") as schedstat:
            used, waited = map(int, schedstat.read().split()[:2])
        if used or waited:
            return ProcessorTime(used / 1e9, waited / 1e9)
    except (FileNotFoundError, ValueError):
        pass  # the kernel lacks this account (gVisor, for one); if the thread ended instead, the next line raises
    fields = _status(path)
    return ProcessorTime((int(fields[11]) + int(fields[12])) / CLOCK_TICKS)


def _is_ready(thread: Thread) -> bool:
    """Whether the thread runs or stands in a run queue."""
    try:
        return _status(f"/proc/{thread[0]}/task/{thread[1]}")[0] == "R"
    except OSError:
        return False


def _status(path: str) -> list[str]:
    """The fields of a stat file from the state on."""
    # The name before them stands in parentheses and may contain spaces and parentheses of its own.
    with open(f"{path}/stat") as stat:
        return stat.read().rpartition(")")[2].split()
