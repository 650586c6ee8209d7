"""Time that counts against a limit: real processes on one processor, whatever else the machine does."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.processor_time import CountedTime, ProcessorTime, counted, processor_time

SPIN = "while True: pass"
SLEEP = "import time\ntime.sleep(600)"
seconds = st.floats(0, 100)


@contextlib.contextmanager
def running(*programs: str) -> Iterator[list[int]]:
    """Processes that share one processor with each other; what they forked ends with them."""
    processor = max(os.sched_getaffinity(0))
    pin = f"import os\nos.sched_setaffinity(0, [{processor}])\nos.write(1, b'.')\n"
    with contextlib.ExitStack() as stack:
        processes = []
        for program in programs:
            command = [sys.executable, "-S", "-c", pin + program]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            assert process.stdout is not None
            assert process.stdout.read(1) == b"."
            processes.append(process)
        yield [process.pid for process in processes]


def read_until(time_of: CountedTime, done: Callable[[CountedTime], bool]) -> CountedTime:
    deadline = time.monotonic() + 60
    while not done(time_of):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        time_of.read()
    return time_of


def test_waiting_behind_others_does_not_count() -> None:
    with running(SPIN, SPIN, SPIN) as (pid, *_):
        found = read_until(CountedTime(pid), lambda it: it.used_seconds > 0.4)
    assert found.waited_seconds > 0.3, "two others had their turns"
    assert found.counted_seconds == pytest.approx(found.used_seconds, abs=0.3)
    assert found.counted_seconds < 0.75 * found.wall_seconds


def test_sleeping_counts_beside_busy_others() -> None:
    with running(SLEEP, SPIN, SPIN) as (pid, *_):
        found = read_until(CountedTime(pid), lambda it: it.wall_seconds > 0.6)
    assert found.counted_seconds > 0.5 * found.wall_seconds
    assert found.used_seconds < 0.3


def test_a_tree_that_crowds_itself_out_pays_for_what_it_took() -> None:
    crowd = f"import threading\nfor _ in range(3): os.fork()\nthreading.Thread(target=os.getpid).start()\n{SPIN}"
    with running(crowd) as (pid,):
        found = read_until(CountedTime(pid), lambda it: it.used_seconds > 0.5)
    assert found.used_seconds + found.waited_seconds > 0.5
    assert found.counted_seconds >= 0.9 * found.used_seconds / len(os.sched_getaffinity(0))


def test_all_threads_of_all_descendants_are_read() -> None:
    tree = f"import threading\nif os.fork():\n    os.wait()\nthreading.Thread(target=lambda: exec({SPIN!r})).start()"
    with running(tree) as (pid,):
        deadline = time.monotonic() + 60
        while processor_time(pid).used_seconds < 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_is_read_is_what_the_kernel_counts_for_the_process() -> None:
    with running(SPIN) as (pid,):
        read_until(CountedTime(pid), lambda it: it.used_seconds > 0.5)
        with open(f"/proc/{pid}/stat") as stat:
            counted_by_kernel = sum(map(int, stat.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
        assert processor_time(pid).used_seconds == pytest.approx(counted_by_kernel, abs=0.3)


def test_processes_that_are_gone_have_none() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert processor_time(process.pid) == ProcessorTime(0.0, 0.0)
    assert CountedTime(process.pid).read() >= 0.0


def test_a_late_reader_costs_the_judged_nothing() -> None:
    now = [0.0]
    with running(SLEEP) as (pid,):
        found = CountedTime(pid, read_every=0.5, clock=lambda: now[0])
        now[0] = 0.5
        assert 0 <= found.read() <= 0.5
        now[0] = 60.5  # the machine stood still, or only the reader did
        assert found.read() <= 1.5
    assert found.wall_seconds == 60.5


def test_what_ended_meanwhile_is_not_charged() -> None:
    now = [0.0]
    with running(SLEEP) as (pid,):
        found = CountedTime(pid, clock=lambda: now[0])
        now[0] = 0.5
        before = found.read()
    now[0] = 0.9
    assert found.read() == before


@given(seconds, seconds, seconds, st.integers(1, 64))
def test_what_counts_is_between_nothing_and_the_interval(
    interval: float, used: float, waited: float, num_processors: int
) -> None:
    found = counted(interval, ProcessorTime(used, waited), num_processors)
    assert 0 <= found <= interval
    assert found >= min(interval, used / num_processors)
    assert counted(interval, ProcessorTime(used, 0.0), num_processors) == interval


def test_a_number_that_was_given_to_a_new_thread_starts_anew() -> None:
    old, new = ProcessorTime(5.0, 2.0), ProcessorTime(0.5, 0.25)
    assert new.since(old) == new
    assert old.since(new) == ProcessorTime(4.5, 1.75)
