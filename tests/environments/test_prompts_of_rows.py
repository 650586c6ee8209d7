"""How ``dataset`` makes prompts: keys, templates, systems, conversations with tools."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlserve.actors.environment.rewarded import rewarded
from rlserve.environments.files.dataset import DatasetEnvironment
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task, Tool

ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}


def task_of(tmp_path: Path, row: dict[str, Any], **options: Any) -> Task:
    return environment_of(tmp_path, row, **options).task("train", 0, 0)


def environment_of(tmp_path: Path, row: dict[str, Any], **options: Any) -> DatasetEnvironment:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    return DatasetEnvironment(path=str(path), **options)


def test_a_template_is_filled_from_the_columns(tmp_path: Path) -> None:
    row = {"question": "2+2?", "hint": 4, "answer": 4}
    template = "Q: {question} ({hint:03d}) {{so}}\nA:"
    assert task_of(tmp_path, row, template=template).prompt == "Q: 2+2? (004) {so}\nA:"
    chat = task_of(tmp_path, row, template=template, prompt_format="chat").prompt
    assert chat == (Message(role="user", content="Q: 2+2? (004) {so}\nA:"),)


def test_a_system_message_stands_before_the_question_but_not_before_one_of_the_row(tmp_path: Path) -> None:
    asked = Message(role="user", content="2+2?")
    row: dict[str, Any] = {"prompt": "2+2?", "answer": 4}
    assert task_of(tmp_path, row, system="Be short.").prompt == (Message(role="system", content="Be short."), asked)
    row["prompt"] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "2+2?"}]
    assert task_of(tmp_path, row, system="Be short.").prompt == (Message(role="system", content="Be kind."), asked)


def test_the_answer_at_the_end_of_a_conversation_is_not_shown_to_the_policy(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}]
    task = task_of(tmp_path, {"messages": messages, "final": 4}, messages_key="messages", answer_key="final")
    assert (task.prompt, task.payload) == ((Message(role="user", content="2+2?"),), b'{"answer": "4"}')


@pytest.mark.parametrize(
    "messages",
    [
        [{"from": "system", "value": "Be short."}, {"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}],
        '[{"role": "system", "content": "Be short."}, {"role": "user", "content": "?"}]',
        [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "?"}]}],
    ],
    ids=["sharegpt", "json text", "parts"],
)
def test_conversations_are_read_in_the_forms_that_data_sets_have(tmp_path: Path, messages: object) -> None:
    task = task_of(tmp_path, {"conversations": messages, "answer": 1}, messages_key="conversations")
    assert task.prompt == (Message(role="system", content="Be short."), Message(role="user", content="?"))


@pytest.mark.parametrize("tools", [[ADD], [{"type": "function", "function": ADD}], json.dumps([ADD])])
def test_tools_of_a_row_are_offered(tmp_path: Path, tools: object) -> None:
    (tool,) = task_of(tmp_path, {"prompt": "?", "answer": 1, "tools": tools}).tools
    assert tool == Tool(name="add", description="Adds.", parameters_json=json.dumps(ADD["parameters"]))
    assert task_of(tmp_path, {"prompt": "?", "answer": 1, "tools": tools}, tools_key="").tools == ()


@pytest.mark.parametrize(
    ("row", "options", "verifier", "payload"),
    [
        ({"answer": 1}, {}, "math", {"answer": "1"}),
        ({"answer": "Blue."}, {"verifier": "exact"}, "exact", {"answer": "Blue."}),
        ({"answer": 1}, {"verifier": "length"}, "length", {}),
        ({"answer": 1}, {"verifier": "elsewhere"}, "elsewhere", {"answer": "1"}),
        ({"topic": "sums"}, {}, "", {}),
        ({"topic": "sums", "answer": ""}, {"verifier": ""}, "", {}),
    ],
)
def test_there_is_a_verifier_for_an_answer_and_none_without(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], verifier: str, payload: dict[str, Any]
) -> None:
    task = task_of(tmp_path, {"prompt": "?", **row}, **options)
    assert (task.verifier, json.loads(task.payload)) == (verifier, payload)


def test_a_reward_function_gets_the_columns_of_the_row(tmp_path: Path) -> None:
    row = {"prompt": "?", "topic": "sums", "sizes": [1, 2]}
    environment = rewarded(environment_of(tmp_path, row), "function/dataset")
    task = environment.task("train", 0, 0)
    assert (task.verifier, json.loads(task.payload)) == ("function/dataset", row)


def test_values_that_json_lacks_are_sent_as_null_or_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "?", "answer": 1, "score": NaN, "deep": {"x": [Infinity]}}')
    columns = DatasetEnvironment(path=str(path)).columns("train", 0, 0)
    assert (columns["score"], columns["deep"]) == (None, {"x": [None]})


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"q": "?"},
            {"template": "{question}"},
            r"line 1: question: is missing \(there are: q, answer\); name",
        ),
        ({"q": None}, {"template": "{q}"}, "line 1: q: is None; the template needs it"),
        ({"q": "?"}, {"template": "{q:d}"}, "line 1: template: cannot be filled"),
        ({"q": "?"}, {"template": "{q.__class__}"}, r"^template: {q.__class__} is no column"),
        ({"q": "?"}, {"template": "{}"}, r"^template: {} is no column"),
        ({"q": "?"}, {"template": "}"}, "^template: Single '}' encountered"),
        ({"q": "?"}, {"template": "Ask."}, "^template: 'Ask.' names no column"),
        ({"q": "?"}, {"template": "{q}", "messages_key": "q"}, "^template: is given beside messages_key"),
        ({"q": "?"}, {"prompt_key": "q", "prompt_format": "html"}, "^prompt_format: is 'html'"),
        ({"q": "?"}, {"prompt_format": "text", "system": "x"}, '^prompt_format: is "text", which has no place'),
        ({"m": "hello"}, {"messages_key": "m"}, "line 1: m: is 'hello'; give text or a list"),
        ({"m": []}, {"messages_key": "n"}, r"line 1: n: is missing \(there are: m, answer\); name another with mess"),
        ({"m": [{"from": "robot", "value": "x"}]}, {"messages_key": "m"}, r"from: is 'robot'; .* \(m\[0\]\)"),
        ({"m": [{"role": "user", "content": [{"type": "image"}]}]}, {"messages_key": "m"}, r"content: has .*image"),
        ({"prompt": "?", "tools": [{"nome": "add"}]}, {}, r"line 1: tools\[0\]: is .*give {"),
        ({"prompt": "?", "tools": "hammer"}, {}, "line 1: tools: is 'hammer'; give a list of tools"),
        ({"prompt": "?", "tools": [{"name": "a", "parameters": "x"}]}, {}, r"tools\[0\]: has parameters 'x'"),
    ],
)
def test_a_prompt_that_cannot_be_made_is_told_with_its_column(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        environment_of(tmp_path, {**row, "answer": 1}, **options)
