"""Function-call tests: compared outside the box, by a stated rule."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.records import Outcome
from rlserve.sandbox.calls import CallTest, equal
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import Sandbox

QUICK = Limits(cpu_seconds=1, wall_seconds=3, memory_bytes=256 * 2**20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_every_json_value_equals_itself(value: Any) -> None:
    assert equal(value, value)


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ((1, 2), [1, 2], True),
        ({2, 1}, [1, 2], True),
        ({1, 2}, [1, 1], False),
        ([1, 2], [2, 1], False),
        (1.0, 1, True),
        (1, 1.0000001, True),
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
    assert equal(found, wanted) is same


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
