"""What crosses the wall: values come out as they went in, as plain builtins, and nothing else comes out at all."""

import collections
import datetime
import decimal
import fractions
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.sandbox.inside.values import MAX_DEPTH, Decoder, Encoder, Unsupported, replace_content


def no_reference(*_: object) -> Any:
    raise Unsupported("a reference")


def cross(value: Any) -> Any:
    """Through the wall: encode, serialise, parse, decode."""
    return Decoder(no_reference).decode(json.loads(json.dumps(Encoder(no_reference).encode(value))))


hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None))
    | st.binary(max_size=20)
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.times().map(lambda time: time.replace(fold=0))
    | st.datetimes().map(lambda time: time.replace(fold=0))
    | st.timedeltas(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashable | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.builds(collections.deque, st.lists(inner, max_size=3))
        | st.builds(collections.OrderedDict, st.dictionaries(hashable, inner, max_size=3))
        | st.builds(collections.Counter, st.dictionaries(hashable, st.integers(), max_size=3))
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_comes_out_as_it_went_in_with_its_exact_type(value: Any) -> None:
    found = cross(value)
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value) or isinstance(value, Iterable)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["t", "v", "id"]) | st.text(max_size=3), inner, max_size=4)
        | st.builds(
            lambda tag, v: {"t": tag, "v": v},
            st.sampled_from(
                [
                    "set",
                    "dict",
                    "counter",
                    "int",
                    "float",
                    "range",
                    "fraction",
                    "decimal",
                    "date",
                    "time",
                    "timedelta",
                    "complex",
                    "bytes",
                    "constant",
                    "ref",
                    "own",
                    "deque",
                    "tuple",
                ]
            ),
            inner,
        )
    ),
    max_leaves=15,
)


@given(json_values)
def test_any_data_decodes_to_plain_values_or_is_refused(data: Any) -> None:
    try:
        value = Decoder(no_reference).decode(data)
    except Unsupported:
        return
    assert type(value).__module__ in ("builtins", "collections", "fractions", "decimal", "datetime")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (type("Liar", (list,), {"__eq__": lambda *_: True})([1, 2]), [1, 2]),
        (type("Liar", (str,), {"__eq__": lambda *_: True, "strip": lambda s: s})("no"), "no"),
        (type("Liar", (int,), {"__eq__": lambda *_: True})(7), 7),
        (type("Liar", (float,), {"__sub__": lambda *_: 0.0})(-0.0), -0.0),
        (type("Liar", (dict,), {"items": lambda self: []})({"a": 1}), {"a": 1}),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        (collections.defaultdict(int, a=1), {"a": 1}),
        ({"a": 1}.keys(), ["a"]),
    ],
)
def test_a_subclass_arrives_as_the_plain_value_of_its_base(value: Any, plain: Any) -> None:
    found = cross(value)
    assert type(found) is type(plain)
    assert repr(found) == repr(plain)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), -0.0, 1e-320])
def test_special_floats_survive(number: float) -> None:
    assert repr(cross(number)) == repr(number)


def test_integers_past_the_digit_limit_of_python_survive() -> None:
    assert cross(-(7**20000)) == -(7**20000)


def test_depth_and_cycles_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(Unsupported):
        cross(cycle)
    deep: Any = 1
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(Unsupported):
        Decoder(no_reference).decode(deep)


@pytest.mark.parametrize("value", [object(), print, type, lambda: 0, iter([])])
def test_what_is_no_value_needs_a_reference(value: Any) -> None:
    with pytest.raises(Unsupported, match="a reference"):
        cross(value)


def test_changed_arguments_get_their_new_content_only_when_of_the_same_type() -> None:
    numbers, names = [3, 1], {"a": 1}
    replace_content(numbers, [1, 3])
    replace_content(names, {"b": 2})
    assert (numbers, names) == ([1, 3], {"b": 2})
    replace_content(numbers, "no")
    replace_content(numbers, (0,))
    assert numbers == [1, 3]


def test_stdlib_values_survive() -> None:
    value = {"f": fractions.Fraction(2, 3), "d": decimal.Decimal("1.10"), "t": datetime.timedelta(days=-1, seconds=3)}
    assert repr(cross(value)) == repr(value)
