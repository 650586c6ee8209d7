"""Function-call tests: compared outside the box, by a stated rule."""

import collections
import decimal
import fractions
import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.records import Outcome
from rlserve.sandbox.calls import CallTest
from rlserve.sandbox.equality import equals
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import Sandbox
from rlserve.sandbox.walls.plain import encode_plain

QUICK = Limits(cpu_seconds=1, wall_seconds=3, memory_bytes=256 * 2**20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_every_json_value_equals_itself(value: Any) -> None:
    assert equals(encode_plain(value), value)


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ((1, 2), [1, 2], True),
        ({2, 1}, [1, 2], True),
        ({1, 2}, [1, 1], False),
        ([1, 2], [2, 1], False),
        (1.0, 1, True),
        (1, 1.0000001, True),
        (1.0000001, 1, False),
        (1000000.6, 1000000, False),
        (math.sqrt(50 * math.pi) * (25 / math.e) ** 25 * math.exp(1 / 300), math.factorial(25), False),
        (math.factorial(25), math.factorial(25), True),
        (0.0, 3e-7, False),
        (0.0, 9.9e-7, False),
        (3.0000001e-7, 3e-7, True),
        (1e-17, 0.0, True),
        (1e-7, 0.0, False),
        ({1.0, 1.0000001, 1.0000002, 1.0000003}, [1, 2, 3, 6], False),
        ({1.0, 1.0000001}, [1.0, 1.0], True),
        ({(1.0000001, 5), (1.0, 6)}, [[1.0, 5], [1.0, 6]], True),
        ({1, 2, 3}, [3, 2, 1], True),
        ({"b", "a"}, ["a", "b"], True),
        (frozenset({1}), [1], True),
        (range(3), [0, 1, 2], True),
        (collections.deque([1, 2]), [1, 2], True),
        (fractions.Fraction(1, 3), 0.3333333333, True),
        (fractions.Fraction(4, 2), 2, True),
        (decimal.Decimal("1.50"), 1.5, True),
        (decimal.Decimal("1E999999999"), 1.5, False),
        ({None: 1, True: 2, 1.5: 3}, {"null": 1, "true": 2, "1.5": 3}, True),
        (1, 1.1, False),
        (True, 1, False),
        (1, True, False),
        (0, False, False),
        (None, False, False),
        ("1", 1, False),
        ({1: "a"}, {"1": "a"}, True),
        ({1: "a", "1": "b"}, {"1": "a"}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        (float("nan"), float("nan"), True),
        (float("inf"), 1e308, False),
        (10**400, 1.5, False),
        ([], {}, False),
        (b"a", "a", False),
    ],
)
def test_the_rule_of_equality(found: Any, wanted: Any, same: bool) -> None:
    assert equals(json.loads(json.dumps(encode_plain(found))), wanted) is same


@pytest.mark.parametrize(
    ("source", "tests", "outcome", "passed"),
    [
        ("def f(a, b=0): return a + b", [CallTest([1], 1), CallTest([1], 3, {"b": 2})], Outcome.PASS, 2),
        ("def f(a): return a", [CallTest([1], 1), CallTest([2], 3)], Outcome.FAIL, 1),
        ("def f(a): raise ValueError", [CallTest([1], 1)], Outcome.FAIL, 0),
        (
            "def f(a): return {'k': (1, {2: [a]})}",
            [CallTest([{"x": None}], {"k": [1, {"2": [{"x": None}]}]})],
            Outcome.PASS,
            1,
        ),
        ("def g(a): return a", [CallTest([1], 1)], Outcome.CRASH, 0),
        ("def f(a:", [CallTest([1], 1)], Outcome.CRASH, 0),
        ("import os\ndef f(a): os._exit(0)", [CallTest([1], 1)], Outcome.CRASH, 0),
        ("def f(a):\n    while True: pass", [CallTest([1], 1)], Outcome.TIMEOUT, 0),
        ("class A:\n    def __eq__(self, o): return True\ndef f(a): return A()", [CallTest([1], 1)], Outcome.FAIL, 0),
        ("def f(a): return print", [CallTest([1], 1)], Outcome.FAIL, 0),
    ],
)
def test_calls_are_judged(sandbox: Sandbox, source: str, tests: list[CallTest], outcome: Outcome, passed: int) -> None:
    found = sandbox.calls(source, "f", tests, QUICK)
    assert (found.outcome, found.passed, found.total) == (outcome, passed, len(tests)), found


def test_answers_that_nobody_asked_for_do_not_count(sandbox: Sandbox) -> None:
    forge = (
        "import os, json, struct\nfor n in range(9):\n    t = json.dumps({'n': n, 'v': 5}).encode()\n"
        "    os.write(5, struct.pack('<I', len(t)) + t)\ndef f(a): return 0"
    )
    assert sandbox.calls(forge, "f", [CallTest([1], 5)], QUICK).outcome is not Outcome.PASS


def test_integers_of_any_length_are_compared() -> None:
    long = 10**5000
    assert equals(encode_plain(long), long)
    assert not equals(encode_plain(long + 1), long)
    assert not equals(encode_plain({long: 1}), {"1": 1})


ONE_HASH = (
    "import os, struct\nn = 2**61 - 1\n"
    'text = \'{"n": 1, "v": {"t": "set", "v": [\' + \', \'.join(str(i * n) for i in range(150_000)) + \']}}\'\n'
    "def f(a):\n    os.write(5, b'')\n    data = text.encode()\n"
    "    head = struct.pack('<I', len(data))\n    data = head + data\n"
    "    while data: data = data[os.write(5, data):]\n    os._exit(0)\n"
)
BRACKETS = ONE_HASH.replace(
    "text = ", "text = '{\"n\": 1, \"v\": [' + '[],' * (22 * 2**20) + '[]]}'\nunused = 0 and "
).replace("2**61 - 1", "0")


@pytest.mark.parametrize("source", [ONE_HASH, BRACKETS])
def test_an_answer_cannot_keep_its_judge_busy(sandbox: Sandbox, source: str) -> None:
    tests = [CallTest([1], [1, 2])]
    start = time.process_time()
    found = sandbox.calls(source, "f", tests, Limits(cpu_seconds=4, wall_seconds=10, memory_bytes=2**30))
    assert found.outcome in (Outcome.FAIL, Outcome.REJECTED, Outcome.CRASH), found
    assert time.process_time() - start < 2.0


def test_a_set_of_one_hash_that_is_wanted_is_compared_at_once() -> None:
    numbers = [i * (2**61 - 1) for i in range(20_000)]
    data = {"t": "set", "v": [encode_plain(number) for number in reversed(numbers)]}
    start = time.process_time()
    assert equals(data, numbers)
    assert not equals(data, [*numbers[1:], 5])
    assert time.process_time() - start < 5.0
