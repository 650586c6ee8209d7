"""Whole programs against input and output, in the real sandbox."""

import pytest

from rlserve.records import Outcome
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.printed import difference, lines_of
from rlserve.sandbox.sandbox import Sandbox
from rlserve.sandbox.stdio import StdioTest
from rlserve.sandbox.walls.tiers import Tier

QUICK = Limits(cpu_seconds=1, wall_seconds=2, memory_bytes=256 * 2**20, output_bytes=64 * 1024)


def judge(sandbox: Sandbox, source: str, *tests: tuple[str, str], limits: Limits = QUICK):  # type: ignore[no-untyped-def]
    return sandbox.stdio(source, [StdioTest(*test) for test in tests or [("", "ok")]], limits)


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("print('ok')", Outcome.PASS),
        ("print('ok  \\n\\n')", Outcome.PASS),
        ("print(' ok')", Outcome.FAIL),
        ("import sys; sys.stdout.buffer.write(b'ok\\r\\n')", Outcome.PASS),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", Outcome.FAIL),
        ("print('ok'); exit(1)", Outcome.CRASH),
        ("print('ok'); exit()", Outcome.PASS),
        ("print('ok'); 1 / 0", Outcome.CRASH),
        ("def broken(:", Outcome.CRASH),
        ("import os; print('ok', flush=True); os.kill(os.getpid(), 11)", Outcome.CRASH),
        ("import os; print('ok', flush=True); os.abort()", Outcome.CRASH),
        ("while True: pass", Outcome.TIMEOUT),
        ("x = bytearray(1 << 30)", Outcome.MEMORY),
        ("while True: print('ok')", Outcome.OUTPUT_LIMIT),
        ("import sys\nwhile True: print('ok', file=sys.stderr)", Outcome.OUTPUT_LIMIT),
        ("import atexit; atexit.register(lambda: print('ok'))", Outcome.PASS),
        ("import threading; threading.Thread(target=lambda: print('ok')).start()", Outcome.PASS),
        (
            "import sys, threading; threading.stack_size(1 << 26); sys.setrecursionlimit(10**6)\n"
            "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
            "t = threading.Thread(target=lambda: print('ok' if f(50000) == 50000 else '')); t.start(); t.join()",
            Outcome.PASS,
        ),
    ],
)
def test_each_end_has_its_outcome(sandbox: Sandbox, source: str, outcome: Outcome) -> None:
    found = judge(sandbox, source)
    assert found.outcome is outcome, found
    assert (found.passed, found.total) == (int(outcome is Outcome.PASS), 1)


def test_sleeping_ends_at_the_wall_limit(sandbox: Sandbox) -> None:
    found = judge(sandbox, "import time; time.sleep(60)", limits=Limits(cpu_seconds=1, wall_seconds=0.3))
    assert found.outcome is Outcome.TIMEOUT
    assert "0.3 s" in found.reason


def test_the_share_of_tests_passed_is_known(sandbox: Sandbox) -> None:
    found = judge(sandbox, "print(min(int(input()), 2))", ("1", "1"), ("2", "2"), ("3", "3"))
    assert (found.outcome, found.passed, found.total) == (Outcome.FAIL, 2, 3)
    assert found.reason.startswith("test 2")
    assert "3" not in found.reason.removeprefix("test 2")  # the reason does not show what was expected


def test_a_runaway_costs_one_limit_and_not_one_a_test(sandbox: Sandbox) -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=0.3)
    found = judge(sandbox, "import time; time.sleep(9)", *[("", "ok")] * 20, limits=limits)
    assert (found.outcome, found.passed, found.total) == (Outcome.TIMEOUT, 0, 20)


def test_what_was_printed_and_raised_comes_back_printable(sandbox: Sandbox) -> None:
    found = judge(sandbox, "print('\\x1b[2Jred'); raise KeyError('why')")
    assert "\x1b" not in found.output
    assert "\\x1b[2Jred" in found.output
    assert found.output.rstrip().endswith("KeyError: 'why'")
    assert "solution.py" in found.output
    assert "rlserve" not in found.output


def test_two_runs_of_a_program_are_the_same(sandbox: Sandbox) -> None:
    source = "import random; print(random.random(), {'a', 'b', 'c'}, hash('x'))"
    outputs = {judge(sandbox, source).output for _ in range(2)}
    with Sandbox() as other:
        outputs.add(judge(other, source).output)
    assert len(outputs) == 1


def test_nothing_stays_from_one_program_to_the_next(sandbox: Sandbox) -> None:
    leave = "import os, math; math.left = 1\ntry: open('/tmp/left', 'w')\nexcept OSError: pass\nprint('ok')"
    look = "import os, math; print('ok' if not hasattr(math, 'left') and not os.path.exists('/tmp/left') else 'left')"
    assert judge(sandbox, leave).outcome is Outcome.PASS
    assert judge(sandbox, look).outcome is Outcome.PASS


def test_the_scratch_directory_is_there_and_has_a_size(sandbox: Sandbox) -> None:
    if sandbox.tier is Tier.LANDLOCK:
        pytest.skip("this tier has no scratch directory")
    small = Limits(cpu_seconds=1, wall_seconds=2, file_bytes=2**20)
    assert judge(sandbox, "open('x', 'w').write('1' * 10**5); print('ok')", limits=small).outcome is Outcome.PASS
    fill = "import os\nfor i in range(40):\n    open(f'x{i}', 'w').write('1' * 10**5)\nprint('ok')"
    assert judge(sandbox, fill, limits=small).outcome is Outcome.CRASH


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a \nb\t\n\n", ["a", "b"]),
        ("a\r\nb", ["a", "b"]),
        ("", []),
        ("\n\n", []),
        (" a", [" a"]),
        ("a\n\nb", ["a", "", "b"]),
    ],
)
def test_compared_are_lines_without_trailing_blanks(text: str, lines: list[str]) -> None:
    assert lines_of(text) == lines


@pytest.mark.parametrize(
    ("printed", "wanted", "same"),
    [
        ("0.3333333333333333", "0.333333", True),
        ("0.333333", "0.3333333333333333", True),
        ("2.500000000", "2.5", True),
        ("2.5", "2.500000000", True),
        ("3", "3.0", True),
        ("100000.0", "1e5", True),
        ("-0.0", "0.0", True),
        ("[0.30000000000000004, 1]", "[0.3, 1]", True),
        ("x=0.1 y=0.2000000001", "x=0.1 y=0.2", True),
        ("0.000333333333", "0.000333", True),
        ("2.54", "2.5", False),
        ("2.5", "2.54", False),
        ("0.333", "0.333333", False),
        ("0.0", "0.0000003", False),
        ("0.000000", "0.000000001", False),
        ("3.0", "3", False),
        ("1000000.6", "1000000", False),
        ("1000001", "1000000", False),
        ("0.3  1", "0.3 1", False),
        ("0.3 1", "0.3", False),
        ("1.2.3", "1.2.30", False),
        ("nan", "0.5", False),
        ("0.5", "nan", False),
        ("\uff10.5", "0.5", False),
        ("1e999", "1e998", False),
        ("9" * 500 + ".0", "9" * 500 + ".00", False),
    ],
)
def test_printed_decimals_have_a_tolerance_and_nothing_else_has(printed: str, wanted: str, same: bool) -> None:
    assert (difference(printed.encode(), wanted) is None) is same


def test_what_is_wanted_may_be_longer_than_the_output_limit(sandbox: Sandbox) -> None:
    wanted = "\n".join(map(str, range(20_000)))
    assert judge(sandbox, "for i in range(20_000): print(i)", ("", wanted)).outcome is Outcome.PASS
    assert judge(sandbox, "while True: print(1)", ("", wanted)).outcome is Outcome.OUTPUT_LIMIT


@pytest.mark.parametrize(
    "source",
    [
        "print(open('/dev/stdin').read().strip())",
        "import os\nassert os.path.exists('/dev/stdin')\nprint(os.read(os.open('/dev/stdin', 0), 9).decode())",
        "open('/dev/stdout', 'w').write(open(0).read())",
        "import pathlib\nprint(pathlib.Path('/dev/fd/0').read_text())",
        "import asyncio\nasync def f():\n    return await asyncio.sleep(0, input())\nprint(asyncio.run(f()))",
        "assert len(str(int('7' * 9000))) == 9000\nprint(input())",
        "import os\nos.sched_yield()\nprint(input())",
        "import socket\na, b = socket.socketpair()\na.send(input().encode())\nprint(b.recv(9).decode())",
    ],
)
def test_the_interpreter_is_as_programs_know_it(sandbox: Sandbox, source: str) -> None:
    found = judge(sandbox, source, ("ok", "ok"))
    assert found.outcome is Outcome.PASS, found


@pytest.mark.parametrize(
    "source",
    [
        "import os; os.nice(5)",
        "import os; os.sched_setaffinity(0, [0])",
        "import fcntl, os; fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', '\\0other')",
        "import ctypes, os\nif ctypes.CDLL(None, use_errno=True).inotify_init() < 0: raise OSError",
    ],
)
def test_what_would_reach_another_box_or_give_way_at_will_is_refused(sandbox: Sandbox, source: str) -> None:
    found = judge(sandbox, source + "\nprint('ok')")
    assert (found.outcome, "Error" in found.reason) == (Outcome.CRASH, True), found
