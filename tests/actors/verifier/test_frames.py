"""What goes over the pipes: whole frames or garbage, checked verdicts or garbage."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.actors.verifier.pipe import LENGTH, FrameBuffer, Garbage, decode_reply, encode, encode_verdict
from rlserve.records import Failure, FailureKind, Outcome, Verdict

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
GOOD: dict[str, Any] = {
    "index": 3,
    "verdict": encode_verdict(Verdict(outcome=Outcome.PASS, reward=1.0, parts={"a": 1.0}, passed=1, total=2)),
    "seconds": 0.5,
    "traceback": "",
}


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.text(alphabet=st.characters(codec=None), max_size=5), st.text(max_size=20))), st.data()
)
def test_frames_come_whole_however_the_bytes_are_cut(messages: list[dict[str, str]], data: st.DataObject) -> None:
    stream = b"".join(map(encode, messages))
    buffer, found, at = FrameBuffer(max_bytes=10_000), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 64))
        found += list(buffer.feed(stream[at : at + size]))
        at += size
    assert found == messages


@pytest.mark.parametrize("body", [b"[1]", b"nonsense", b"\xff\xfe", b"[" * 5000])
def test_a_frame_that_is_no_object_is_garbage(body: bytes) -> None:
    with pytest.raises(Garbage):
        list(FrameBuffer(max_bytes=10_000).feed(LENGTH.pack(len(body)) + body))


def test_a_frame_beyond_the_limit_is_garbage_before_it_is_read() -> None:
    with pytest.raises(Garbage, match="at most 100"):
        list(FrameBuffer(max_bytes=100).feed(LENGTH.pack(101)))


def test_a_verdict_survives_the_pipe() -> None:
    verdict = Verdict(
        outcome=Outcome.FAIL,
        reward=-0.25,
        parts={"format": 0.5},
        reason="lone \ud800",
        passed=2,
        total=5,
        isolation="namespaces",
        output="printed",
        verifier="odd",
        seconds=0.5,
    )
    message = json.loads(json.dumps({**GOOD, "verdict": encode_verdict(verdict)}))
    assert decode_reply(message, verifier="odd").verdict == verdict


def test_no_verdict_survives_the_pipe_under_the_name_of_its_verifier() -> None:
    failure = Failure(source="whoever", kind=FailureKind.RESOURCE, message="full", retriable=True)
    message = {**GOOD, "verdict": encode_verdict(Verdict.none(failure))}
    decoded = decode_reply(message, verifier="odd").verdict
    assert decoded.failure is not None
    assert (decoded.failure.source, decoded.failure.kind) == ("verifier:odd", FailureKind.RESOURCE)


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"index": True},
        {"seconds": -1.0},
        {"seconds": "1"},
        {"traceback": None},
        {"verdict": None},
        {"verdict": {**GOOD["verdict"], "outcome": "great"}},
        {"verdict": {**GOOD["verdict"], "outcome": "no_verdict"}},
        {"verdict": {**GOOD["verdict"], "reward": "1"}},
        {"verdict": {**GOOD["verdict"], "reward": True}},
        {"verdict": {**GOOD["verdict"], "parts": [1]}},
        {"verdict": {**GOOD["verdict"], "parts": {str(n): 1.0 for n in range(65)}}},
        {"verdict": {**GOOD["verdict"], "passed": 3}},
        {"verdict": {**GOOD["verdict"], "reason": 7}},
        {"verdict": {**GOOD["verdict"], "failure": ["crash", "x", True]}},
    ],
    ids=str,
)
def test_a_reply_that_no_worker_sends_is_garbage(change: dict[str, Any]) -> None:
    decode_reply(GOOD, verifier="odd")
    with pytest.raises(Garbage):
        decode_reply({**GOOD, **change}, verifier="odd")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["index", "verdict", "seconds", "traceback"]), JSON))
def test_any_object_is_a_reply_or_garbage(message: dict[str, Any]) -> None:
    with contextlib.suppress(Garbage):
        assert decode_reply(message, verifier="odd").index >= 0


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_cannot_be_sent(reward: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode_verdict(Verdict(outcome=Outcome.PASS, reward=reward))
