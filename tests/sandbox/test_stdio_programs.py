"""Whole programs against input and output, in the real sandbox."""

import pytest

from rlserve.records import Outcome
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import Sandbox
from rlserve.sandbox.stdio import StdioTest, lines_of
from rlserve.sandbox.tiers import Tier

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
    assert "3" not in found.reason.removeprefix("test 2")  # nobody is told what was expected


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
