"""Short arrays are read by another way than long ones: both accept and refuse the same, word for word."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.errors import InvalidRequest
from rlserve.rpc.codec import check
from rlserve.v1 import trajectory_pb2 as pb

quick = settings(max_examples=200, deadline=None)
EDGES = [0.0, -0.0, 1e-4, -1000.0, math.nan, math.inf, -math.inf]
EDGES += [float(np.nextafter(np.float32(edge), np.float32(to))) for edge in (1e-4, -1000) for to in (-2000, 1)]
LOGPROBS = st.lists(st.floats(-1000, 0, width=32) | st.floats(width=32) | st.sampled_from(EDGES), max_size=80)
GOOD = st.lists(st.floats(-1000, 0, width=32), max_size=80)
IDS = st.lists(st.integers(0, 63) | st.sampled_from([64, 65, 2**31, 2**32 - 1]), max_size=80)


def outcome_of(read: Callable[[], Any]) -> tuple[Any, ...]:
    try:
        array = read()
    except InvalidRequest as error:
        return "refused", str(error), error.field, error.reason
    return str(array.dtype), array.shape, array.tobytes()


def assert_same_by_numpy(read: Callable[[], Any]) -> None:
    short = outcome_of(read)
    with mock.patch.object(check, "SHORT", -1):
        assert outcome_of(read) == short


@quick
@given(LOGPROBS | GOOD, st.integers(-1, 1), st.sampled_from([check.MIN_LOGPROB, -math.inf]))
def test_log_probabilities(values: list[float], extra: int, low: float) -> None:
    message = pb.Trajectory(behavior_logprobs=values)
    for length in (None, max(0, len(values) + extra)):
        assert_same_by_numpy(
            lambda length=length: check.logprobs(message.behavior_logprobs, "t", "logprobs", length=length, low=low)
        )


@quick
@given(IDS, st.sampled_from([None, 64, 2**32]))
def test_token_ids(values: list[int], vocab_size: int | None) -> None:
    message = pb.Trajectory(token_ids=values)
    assert_same_by_numpy(lambda: check.token_ids(message.token_ids, "t", "token_ids", vocab_size=vocab_size))
