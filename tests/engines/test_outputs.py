"""vLLM's completions as our records."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.engines.vllm.outputs import finish_reason, policy_spans, sampled_logprobs
from rlserve.errors import StateCorrupt, Unavailable
from rlserve.records import FinishReason, PolicySpan


@dataclass
class Span:
    version: str
    start: int
    end: int


@dataclass
class Flat:
    start_indices: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@given(st.lists(st.integers(0, 5), max_size=6))
def test_spans_keep_every_token_and_drop_versions_that_sampled_none(lengths: list[int]) -> None:
    ends = np.cumsum(lengths, dtype=int).tolist()
    spans = [Span(str(i), end - length, end) for i, (length, end) in enumerate(zip(lengths, ends, strict=True))]
    found = policy_spans(spans, sum(lengths))
    assert found == tuple(PolicySpan(i, length) for i, length in enumerate(lengths) if length)


@pytest.mark.parametrize("spans", [[], [Span("0", 0, 2)], [Span("0", 0, 1), Span("1", 2, 3)], [Span("0", 0, 4)]])
def test_spans_that_do_not_cover_the_tokens_exactly_are_corrupt(spans: list[Span]) -> None:
    with pytest.raises(StateCorrupt, match="weight_versions"):
        policy_spans(spans, 3)


def test_a_label_that_is_no_version_is_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="default"):
        policy_spans([Span("default", 0, 3)], 3)


def test_the_sampled_token_is_the_first_at_its_position() -> None:
    flat = Flat(start_indices=[0, 2, 3], logprobs=[-1.0, -0.5, -2.0, -3.0, -0.1])
    assert sampled_logprobs(flat, 3).tolist() == [-1.0, -2.0, -3.0]
    with pytest.raises(StateCorrupt, match="3 positions for 4"):
        sampled_logprobs(flat, 4)


def test_a_request_that_vllm_gave_up_is_no_sample() -> None:
    assert finish_reason("length") is FinishReason.LENGTH
    with pytest.raises(Unavailable):
        finish_reason("error")
    with pytest.raises(Unavailable):
        finish_reason(None)
