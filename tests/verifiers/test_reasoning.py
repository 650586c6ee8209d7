"""Thoughts are split off in one way, and every verifier that looks for an answer does it."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.verifiers.countdown.verifier import CountdownVerifier
from rlserve.verifiers.format import FormatVerifier
from rlserve.verifiers.json_schema import JsonSchemaVerifier
from rlserve.verifiers.length import LengthVerifier
from rlserve.verifiers.math.verifier import MathVerifier
from rlserve.verifiers.reasoning import split_reasoning, tagged_answer, thinks_at_end, turn_of
from rlserve.verifiers.rubric import RubricVerifier
from rlserve.verifiers.text.verifier import ExactVerifier, RegexVerifier

OPENED = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n"
SKIPPED = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
NAMED = "Write your thoughts in <think></think> and the result in <answer></answer>.\n2+3?\n"
FEW_SHOT = (
    "<|im_start|>assistant\n<think>a</think><answer>4</answer><|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("completion", "prompt", "answer", "closed"),
    [
        ("a", "", "a", True),
        ("<think>a</think>b", "", "b", True),
        ("a</think>b", "", "b", True),
        ("<think>a", "", "", False),
        ("b<think>a", "", "b", False),
        ("<think>a<think>b</think>c</think>d", "", "d", True),
        ("a<think>b</think>c", "", "a\nc", True),
        ("<think>a</thinking>b", "", "b", True),
        ("a", OPENED, "", False),
        ("a</think>b", OPENED, "b", True),
        ("<think>a</think>b", OPENED, "b", True),
        ("b", SKIPPED, "b", True),
        ("b", NAMED, "b", True),
        ("b", "You are a helpful assistant. Think in <think> tags.", "b", True),
        ("a", "User: 2+3?\nAssistant: <think>", "", False),
        ("a", OPENED + "Let me see", "", False),
        ("a", FEW_SHOT + "<think>", "", False),
        ("b", FEW_SHOT, "b", True),
        ("[THINK]a[/THINK]b", "", "b", True),
        ("<reasoning >a</reasoning >b", "", "b", True),
        ("a", "<\uff5cAssistant\uff5c><think>\n", "", False),
    ],
)
def test_the_answer_is_what_stands_outside_of_thoughts(completion: str, prompt: str, answer: str, closed: bool) -> None:
    parts = split_reasoning(completion, prompt)
    assert (parts.answer, parts.closed) == (answer, closed)


def test_a_turn_that_is_over_is_not_the_models() -> None:
    assert turn_of(OPENED) == "\n<think>\n"
    assert turn_of(FEW_SHOT.rpartition("<|im_start|>assistant")[0]) == ""
    assert not thinks_at_end("<|im_start|>assistant\n<think>a<|im_end|>\n<|im_start|>user\nGo on")


@given(st.lists(st.sampled_from(["<think>", "</think>", "[THINK]", "a", "5", " ", "\n", "\ud800"]), max_size=30))
def test_every_character_is_a_thought_or_an_answer(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = split_reasoning(text)
    for character in "a5\ud800":
        outside_of_marks = text.replace("<think>", "").replace("</think>", "").count(character)
        assert parts.reasoning.count(character) + parts.answer.count(character) == outside_of_marks
    assert "<think>" not in parts.answer and "</think>" not in parts.answer


@pytest.mark.parametrize("text", ["<think>" * 15_000, "</think>" * 12_000, "<" * 100_000, "<think" + " " * 100_000])
def test_a_hostile_text_is_split_in_linear_time(text: str) -> None:
    start = time.process_time()
    split_reasoning(text, text)
    tagged_answer(text.replace("think", "answer"), text)
    assert time.process_time() - start < 0.5


def payload(**fields: object) -> bytes:
    return json.dumps(fields).encode()


SCHEMA = payload(schema={"type": "object", "required": ["a"]})


@pytest.mark.parametrize(
    ("verifier", "task", "completion", "prompt", "reward"),
    [
        (ExactVerifier(), payload(answer="6"), "<think>5?</think>\n6", "", 1),
        (ExactVerifier(), payload(answer="6"), "<think>6", "", 0),
        (ExactVerifier(), payload(answer="6"), "thought</think>6", OPENED, 1),
        (ExactVerifier(), payload(answer="6"), "6", OPENED, 0),
        (ExactVerifier(marker="#"), payload(answer="6"), "<think>#6", "", 0),
        (ExactVerifier(marker="#"), payload(answer="6"), "<think>#6</think>7", "", 0),
        (ExactVerifier(marker="#"), payload(answer="6"), "<think>#5</think>#6", "", 1),
        (RegexVerifier(), payload(pattern="6"), "<think>6</think>7", "", 0),
        (RegexVerifier(), payload(pattern="6"), "<think>7</think>6", "", 1),
        (RegexVerifier(full=True), payload(pattern="[0-9]+"), "<think>7</think>6", "", 1),
        (RegexVerifier(), payload(pattern="^<think>.*</think>6$"), "<think>7</think>6", "", 1),
        (RegexVerifier(), payload(pattern=r"^\<think\>.*\<\/think\>6$"), "<think>7</think>6", "", 1),
        (CountdownVerifier(), payload(numbers=[3, 4], target=7), "<think>3*4</think>3+4", "", 1),
        (CountdownVerifier(), payload(numbers=[3, 4], target=7), "<think>\n3+4", "", 0),
        (CountdownVerifier(), payload(numbers=[3, 4], target=7, tags=True), "<think><answer>3+4</answer>", "", 0),
        (CountdownVerifier(), payload(numbers=[3, 4], target=7, tags=True), "a</think><answer>3+4</answer>", "", 1),
        (CountdownVerifier(), payload(numbers=[3, 4], target=7, tags=True), "<answer>3+4", "", 1),
        (CountdownVerifier(), payload(numbers=[3, 4], target=7, tags=True), "3+4</answer>", "so <answer>", 1),
        (CountdownVerifier(), payload(numbers=[3, 4], target=7, tags=True), "<answer>3+4</answer> <answer>", "", 1),
        (JsonSchemaVerifier(), SCHEMA, '<think>{"b": 1}</think>\n{"a": 1}', "", 1),
        (JsonSchemaVerifier(), SCHEMA, '[THINK]so[/THINK]{"a": 1}', "", 1),
        (JsonSchemaVerifier(), SCHEMA, '<think>{"a": 1}', "", 0),
        (JsonSchemaVerifier(), SCHEMA, '{"a": "</think>"}', "", 1),
        (JsonSchemaVerifier(), SCHEMA, '{"a": 1}', OPENED, 0),
        (JsonSchemaVerifier(), SCHEMA, '<think>x</think>\r\n```json\r\n{"a": 1}\r\n```\r\n', "", 1),
        (JsonSchemaVerifier(), SCHEMA, 'Here:\n~~~json\n{"a": 1}\n~~~', "", 1),
        (MathVerifier(), payload(answer="5"), "\\boxed{5}", OPENED, 0),
        (MathVerifier(), payload(answer="5"), "so</think>\\boxed{5}", OPENED, 1),
        (MathVerifier(), payload(answer="5"), "\\boxed{5}", SKIPPED, 1),
        (LengthVerifier(target=4, tolerance=0), b"{}", "<think>a</think>abcd", "", 0),
        (LengthVerifier(target=20, tolerance=0), b"{}", "<think>a</think>abcd", "", 1),
        (RubricVerifier(parts=[{"verifier": "exact"}]), payload(answer="6"), "thought</think>6", OPENED, 1),
        (RubricVerifier(parts=[{"verifier": "format"}]), b"{}", "a</think><answer>5</answer>", OPENED, 1),
    ],
)
def test_a_verifier_of_answers_judges_the_answer(
    verifier: object, task: bytes, completion: str, prompt: str, reward: float
) -> None:
    verdict = verifier.verify(completion, task, prompt)  # type: ignore[attr-defined]
    assert verdict.reward == reward, verdict.reason


@pytest.mark.parametrize(
    ("completion", "prompt", "reward"),
    [
        ("a</think><answer>5</answer>", OPENED, 1),
        ("a\n</think>\n\n<answer>5</answer>\n", OPENED, 1),
        ("a</think><answer>5</answer>", "2+3?<assistant><think>\n", 1),
        ("a</think><answer>5</answer>", "User: 2+3?\nAssistant: <think>", 1),
        ("<answer>5</answer>", SKIPPED, 1),
        ("<think>a</think><answer>5</answer>", NAMED, 1),
        ("<think>a</think><answer>5</answer>", FEW_SHOT, 1),
        ("a</think><answer>5</answer>", FEW_SHOT + "<think>", 1),
        (" me see</think><answer>5</answer>", OPENED + "Let", 1),
        ("<think>a</think><answer>5</answer>", "2+3? Begin with <think>", 1),
        ("a</think><answer>5</answer>", "", 0),
        ("a</think><answer>5</answer>", NAMED, 0),
        ("<think>a</think><answer>5</answer>", OPENED, 0),
        ("a<answer>5</answer>", OPENED, 0),
        ("a</think>so <answer>5</answer>", OPENED, 0),
        ("<think>a</think><answer>5</answer>", SKIPPED, 0),
        ("", OPENED, 0),
    ],
)
def test_a_form_that_the_prompt_began_is_judged_as_a_whole(completion: str, prompt: str, reward: float) -> None:
    assert FormatVerifier().verify(completion, b"", prompt).reward == reward


def test_any_tag_may_be_begun_by_the_prompt() -> None:
    assert FormatVerifier(tags=["answer"]).verify("5</answer>", b"", "2+3? <answer>").reward == 1
    assert FormatVerifier(tags=["plan", "answer"]).verify("a</plan><answer>5</answer>", b"", "<plan>\n").reward == 1
