"""Time that counts against a limit: wall time, less the time in which the judged waited for a processor.

The kernel accounts for each thread how long it ran and how long it stood in a run queue, ready to run, while
others ran (``/proc/PID/task/TID/schedstat``). A limit that turns into a reward must not charge the second: it is the
machine's load. A thread that sleeps or waits for input stands in no queue, so that its time counts.

How the threads of all processes of a tree combine, in each interval between two readings:

- *used* and *waited* are sums over all threads, those that began in the interval included; a thread that ended is taken
  to have waited as it did before, and when all have ended nothing counts: their end is news that has not arrived;
- what counts is the interval less *waited* (one thread at a time is on the way of the others, as in calls from one
  process to another), at least zero, but no less than *used* divided by the number of processors: a tree whose own
  crowd fills the machine waits for itself;
- the kernel adds a wait when it ends: a thread that is ready and neither ran nor waited since the last reading is
  taken to wait, and what an interval hears of more waiting than it is long is taken from the one before it, then from
  the next one;
- an interval counts at most as long as it was meant to be: a reader that comes late was itself kept waiting.

Where the kernel does not account waiting, all wall time counts.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
MAX_PROCESSES = 256
"""Of a tree: a program may fork on while it is read."""
READ_EVERY_SECONDS = 0.5
UNEXPLAINED_SECONDS = 0.005
"""Of an interval in which a ready thread neither ran nor waited, as far as the kernel has said."""


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Sums over threads, since each began."""

    used_seconds: float = 0.0
    """In which it ran."""
    waited_seconds: float = 0.0
    """In which it could have run, and others did."""

    def __add__(self, other: "ProcessorTime") -> "ProcessorTime":
        return ProcessorTime(self.used_seconds + other.used_seconds, self.waited_seconds + other.waited_seconds)

    def since(self, earlier: "ProcessorTime") -> "ProcessorTime":
        """What was added; all of it when a number was given to a new thread."""
        used, waited = self.used_seconds - earlier.used_seconds, self.waited_seconds - earlier.waited_seconds
        return self if used < 0 or waited < 0 else ProcessorTime(used, waited)


def processor_time(*pids: int) -> ProcessorTime:
    """Of these processes and all their living descendants; nothing for processes that are gone."""
    return sum(_threads(pids).values(), start=ProcessorTime())


Thread = tuple[int, int]
"""Process and thread number."""


def busiest_process(*pids: int) -> float:
    """The most CPU time that a single process of these trees has used, its ended threads included; in seconds."""
    return max((_process_seconds(pid) for pid in _processes(pids)), default=0.0)


class CountedTime:
    """The time of a tree of processes that counts against a limit, from now on.

    Call :meth:`read` about every ``read_every`` seconds.
    """

    def __init__(
        self,
        *pids: int,
        born: float | None = None,
        read_every: float = READ_EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pids`` are the roots; all that descends from them counts with them.

        ``born``: when the processes began, on ``clock``. Then time counts from there, and nothing is read now.
        """
        self.wall_seconds = 0.0
        self.used_seconds = 0.0
        self.waited_seconds = 0.0
        self.counted_seconds = 0.0
        """As of the last reading, like the others."""
        self._pids, self._clock = pids, clock
        self._longest = 2 * read_every
        self._num_processors = len(os.sched_getaffinity(0))
        self._owed = self._doubtful = self._interval = 0.0
        self._parts: dict[Thread, ProcessorTime] = {}
        self.last_reading = clock() if born is None else born
        self._threads = _threads(pids) if born is None else {}
        self._unfinished: dict[Thread, float] = {}
        """Waits that were counted before the kernel added them."""

    def read(self) -> float:
        """Seconds that count so far."""
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
        """False while a thread may have waited since before the last reading, which the kernel adds when it runs."""
        return not any(
            self._interval - part.used_seconds - part.waited_seconds > UNEXPLAINED_SECONDS and _is_ready(thread)
            for thread, part in self._parts.items()
        )

    def _waited_at_the_end(self, threads: Mapping[Thread, ProcessorTime], interval: float) -> float:
        """What threads that ended in the interval waited in it, if they went on as in the one before."""
        ended = (part.waited_seconds for thread, part in self._parts.items() if thread not in threads)
        return sum(min(1.0, waited / self._interval) for waited in ended if self._interval) * interval

    def _take_back(self, excess: float) -> None:
        """Waiting beyond an interval was in the one before, which counted it; what is more goes to the next one."""
        taken = min(max(0.0, excess), self._doubtful)
        self.counted_seconds -= taken
        self._owed = min(max(0.0, excess - taken), self._longest)

    def _added(self, thread: Thread, time: ProcessorTime, interval: float) -> ProcessorTime:
        added = time.since(self._threads.get(thread, ProcessorTime()))
        known = self._unfinished.pop(thread, 0.0)
        if added == ProcessorTime() and _is_ready(thread):
            self._unfinished[thread] = known + interval
            return ProcessorTime(0.0, interval)
        return ProcessorTime(added.used_seconds, max(0.0, added.waited_seconds - known))


def counted(interval: float, added: ProcessorTime, num_processors: int) -> float:
    """How much of an interval counts, given what all threads together used and waited in it."""
    own = min(interval, added.used_seconds / num_processors)
    return max(0.0, own, interval - added.waited_seconds)


def _threads(pids: tuple[int, ...]) -> Mapping[Thread, ProcessorTime]:
    """Of each living thread of the trees."""
    found: dict[Thread, ProcessorTime] = {}
    for pid in _processes(pids):
        with contextlib.suppress(OSError):  # it ended meanwhile
            for thread in os.listdir(f"/proc/{pid}/task"):
                found[pid, int(thread)] = _thread(f"/proc/{pid}/task/{thread}")
    return found


def _processes(pids: tuple[int, ...]) -> Iterator[int]:
    """The roots and all living descendants."""
    waiting = list(pids)
    for _ in range(MAX_PROCESSES):
        if not waiting:
            break
        pid = waiting.pop()
        yield pid
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as children:
                    waiting += map(int, children.read().split())


def _process_seconds(pid: int) -> float:
    try:
        fields = _status(f"/proc/{pid}")
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _thread(path: str) -> ProcessorTime:
    try:
        with open(f"{path}/schedstat") as schedstat:
            used, waited = map(int, schedstat.read().split()[:2])
        if used or waited:
            return ProcessorTime(used / 1e9, waited / 1e9)
    except (FileNotFoundError, ValueError):
        pass  # a kernel without this account; if it is the thread that is gone, the next line says so
    fields = _status(path)
    return ProcessorTime((int(fields[11]) + int(fields[12])) / CLOCK_TICKS)


def _is_ready(thread: Thread) -> bool:
    """Whether it runs or stands in a run queue."""
    try:
        return _status(f"/proc/{thread[0]}/task/{thread[1]}")[0] == "R"
    except OSError:
        return False


def _status(path: str) -> list[str]:
    """The fields from the state on."""
    with open(f"{path}/stat") as stat:
        return stat.read().rpartition(")")[2].split()
