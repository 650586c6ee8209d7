"""Functions against assert files: two boxes, plain values between them."""

import pytest

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome
from rlserve.sandbox.judgement import Judgement
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import Sandbox

QUICK = Limits(cpu_seconds=1, wall_seconds=3, memory_bytes=256 * 2**20)


def judge(sandbox: Sandbox, source: str, tests: str, entry_point: str = "f", prefix: str = "") -> Judgement:
    return sandbox.function(source, tests, QUICK, entry_point=entry_point, prefix=prefix)


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2\nassert f(2**70) == 2**70 + 1"),
        ("def f(x): return x + 1", "def check(candidate):\n    assert candidate(1) == 2"),
        ("def f(xs): xs.sort()", "xs = [3, 1]\nf(xs)\nassert xs == [1, 3]"),
        (
            "def f(n):\n    i = 0\n    while True:\n        yield i\n        i += 1",
            "import itertools\nassert list(itertools.islice(f(1), 300)) == list(range(300))\nassert next(f(1)) == 0",
        ),
        ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x * 2, [1, 2]) == [2, 4]"),
        ("def f(xs, key): return sorted(xs, key=key)", "assert f(['bb', 'a'], len) == ['a', 'bb']"),
        (
            "class Stack:\n    def __init__(self): self.xs = []\n    def push(self, x): self.xs.append(x)\n"
            "    def pop(self): return self.xs.pop()\n    def __len__(self): return len(self.xs)\nf = Stack",
            "s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2 and len(s) == 1\nassert s.xs == [1]\n"
            "s.xs2 = 5\nassert s.xs2 == 5",
        ),
        (
            "def f(x):\n    if x < 0: raise ValueError('neg')\n    return x",
            "try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n    assert 'neg' in str(e)",
        ),
        ("class Odd(KeyError): pass\ndef f(x): raise Odd(x)", "try:\n    f(1)\nexcept LookupError:\n    assert True"),
        ("import math\ndef f(x): return math.sqrt(x)", "assert abs(f(2) - math.sqrt(2)) < 1e-9"),
        (
            "def f(x): return -x",
            "import unittest\nclass T(unittest.TestCase):\n"
            "    def test_a(self): self.assertEqual(f(1), -1)\n"
            "    def test_b(self): self.assertEqual(f(0), 0)\nunittest.main()",
        ),
        ("def f(x): print('noise', x); return x", "if f(3) != 3: raise Exception('bad')"),
        (
            "import asyncio\nasync def g(x): return x\ndef f(x): return asyncio.run(g(x)) if False else x",
            "assert f(1) == 1",
        ),
        (
            "class P:\n    def __str__(self): return 'P!'\ndef f(): return P()",
            "assert str(f()) == 'P!'\nassert f'{f()}' == 'P!'",
        ),
    ],
)
def test_an_honest_program_passes(sandbox: Sandbox, source: str, tests: str) -> None:
    found = judge(sandbox, source, tests)
    assert found.outcome is Outcome.PASS, found
    assert found.passed == found.total > 0


@pytest.mark.parametrize(
    ("source", "tests", "outcomes"),
    [
        # the object would decide about itself
        (
            "class Yes:\n    def __eq__(self, o): return True\n"
            "    def __bool__(self): return True\ndef f(x): return Yes()",
            "assert f(1) == 2",
            {Outcome.FAIL},
        ),
        ("class Yes:\n    def __bool__(self): return True\ndef f(x): return Yes()", "assert f(1)", {Outcome.REJECTED}),
        (
            "class Yes:\n    def __bool__(self): return True\ndef f(x): return Yes()",
            "try:\n    ok = bool(f(1))\nexcept BaseException:\n    ok = True\nassert ok",
            {Outcome.REJECTED},
        ),
        (
            "class Yes:\n    def __eq__(self, o): return True\ndef f(x): return Yes()",
            "assert f(1) == f(2)",
            {Outcome.REJECTED},
        ),
        (
            "class Yes:\n    def __contains__(self, o): return True\ndef f(x): return Yes()",
            "assert 3 in f(1)",
            {Outcome.REJECTED},
        ),
        ("class Yes:\n    def __gt__(self, o): return True\ndef f(x): return Yes()", "assert f(1) > 3", {Outcome.FAIL}),
        # leaving before the tests do
        (
            "import os\ndef f(x): os._exit(0)",
            "try:\n    f(1)\nexcept Exception:\n    pass\nassert True",
            {Outcome.CRASH},
        ),
        ("import os; os._exit(0)", "assert True", {Outcome.CRASH}),
        ("def f(x): raise SystemExit(0)", "assert f(1) == 1", {Outcome.FAIL}),
        # saying that a name of one's own is a module that the tests trust
        (
            "import types\nmath = types.ModuleType('math')\nmath.sqrt = lambda x: 0\ndef f(x): return 0",
            "assert abs(f(2) - math.sqrt(2)) < 1e-9",
            {Outcome.FAIL},
        ),
        # talking on the tests' line
        (
            "import os, json, struct\nfor fd in range(3, 64):\n"
            "    for text in (b'x' * 99, json.dumps({'n': 0, 'v': 2}).encode()):\n"
            "        try: os.write(fd, struct.pack('<I', len(text)) + text)\n"
            "        except OSError: pass\ndef f(x): return 0",
            "assert f(1) == 2",
            {Outcome.FAIL, Outcome.REJECTED, Outcome.CRASH},
        ),
        (
            "import os, json, struct\ndef f(x):\n"
            "    t = json.dumps({'n': 1, 'op': 'call', 'f': 1, 'a': [], 'k': []}).encode()\n"
            "    os.write(5, struct.pack('<I', len(t)) + t)\n    return 2",
            "assert f(1) == 2",
            {Outcome.REJECTED},
        ),
        # arguments changed behind a return value
        ("def f(xs):\n    xs[:] = [1]\n    return [1]", "xs = [2]\nassert f(xs) == xs", {Outcome.FAIL}),
        ("def f(x):\n    while True: pass", "assert f(1) == 1", {Outcome.TIMEOUT}),
        ("def f(x): return [bytearray(1 << 29)]", "assert f(1) == 1", {Outcome.MEMORY, Outcome.FAIL}),
        ("def g(x): return x", "assert f(1) == 1", {Outcome.CRASH}),
        ("def f(x): return x", "assert f(1) == 1\nassert f(2) == 3\nassert f(3) == 3", {Outcome.FAIL}),
    ],
)
def test_a_pass_cannot_be_forged(sandbox: Sandbox, source: str, tests: str, outcomes: set[Outcome]) -> None:
    found = judge(sandbox, source, tests)
    assert found.outcome in outcomes, found
    assert found.passed < found.total


def test_helpers_of_the_task_are_not_the_programs_to_redefine(sandbox: Sandbox) -> None:
    prefix = "def close(a, b): return abs(a - b) < 1e-6\ndef f(x):\n    '''Half of x.'''\n"
    forged = prefix + "    return 0\ndef close(a, b): return True\n"
    tests = "assert close(f(4), 2)"
    assert judge(sandbox, forged, tests).outcome is Outcome.PASS  # without the task's own text the two look the same
    assert judge(sandbox, forged, tests, prefix=prefix).outcome is Outcome.FAIL
    assert judge(sandbox, prefix + "    return x / 2\n", tests, prefix=prefix).outcome is Outcome.PASS


def test_the_program_sees_nothing_of_its_tests(sandbox: Sandbox) -> None:
    spy = (
        "import gc, sys\ndef f(x):\n    frames = []\n    frame = sys._getframe()\n    while frame:\n"
        "        frames.append(frame); frame = frame.f_back\n"
        "    texts = [o for o in gc.get_objects() if isinstance(o, dict)]\n"
        "    return any(''.join(reversed('EULAVTERCES')) in repr(list(d.values()))[:10**6]\n"
        "               for d in texts + [f.f_locals for f in frames])"
    )
    assert judge(sandbox, spy, "expected = 'SECRETVALUE'\nassert f(1) is False").outcome is Outcome.PASS


@pytest.mark.parametrize("tests", ["x = 1", "def test_it(): assert f(1)", "assert ("])
def test_tests_that_test_nothing_are_the_tasks_fault(sandbox: Sandbox, tests: str) -> None:
    with pytest.raises(InvalidRequest, match="tests"):
        judge(sandbox, "def f(x): return x", tests)


def test_the_line_that_failed_is_named(sandbox: Sandbox) -> None:
    found = judge(sandbox, "def f(x): return x", "assert f(1) == 1\n\nassert f(2) == 3")
    assert (found.passed, found.total) == (1, 2)
    assert "line 3" in found.reason
