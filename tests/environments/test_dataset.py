"""Tasks from files: what a row may be, and errors that name file, line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlserve import plugins
from rlserve.environments.files.dataset import DatasetEnvironment
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Message


def write(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def test_rows_are_tasks_in_the_order_of_the_file_and_wrap_around(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"})
    environment = DatasetEnvironment(path=path)
    assert isinstance(environment, plugins.Environment)
    assert environment.splits == {"train": 2}
    assert [environment.task("train", index, 0).prompt for index in range(3)] == ["1+1=", "2+2=", "1+1="]
    task = environment.task("train", 3, 9)
    assert (task.index, task.seed, task.task_id) == (3, 9, "train/1")
    assert task.payload == b'{"answer": "4"}'
    assert environment.columns("train", 3, 9) == {"prompt": "2+2=", "answer": "4"}


def test_a_payload_goes_to_the_named_verifier_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "Say yes", "payload": {"pattern": "^yes$"}})
    task = DatasetEnvironment(path=path, verifier="regex").task("train", 0, 0)
    assert task.verifier == "regex"
    assert json.loads(task.payload) == {"pattern": "^yes$"}


def test_a_prompt_may_be_chat_messages(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1+1?"}]
    environment = DatasetEnvironment(path=write(tmp_path / "a.jsonl", {"prompt": messages, "answer": "2"}))
    assert environment.task("train", 0, 0).prompt == (
        Message(role="system", content="Be short."),
        Message(role="user", content="1+1?"),
    )


def test_tool_calls_and_their_answers_are_part_of_a_conversation(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call, {"name": "sub", "arguments": "{}"}]},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
    ]
    environment = DatasetEnvironment(path=write(tmp_path / "t.jsonl", {"prompt": messages, "answer": "2"}))
    _, called, answered = environment.task("train", 0, 0).prompt
    assert isinstance(called, Message)
    assert [json.loads(c) for c in called.tool_calls] == messages[1]["tool_calls"]
    assert answered == Message(role="tool", content="", tool_call_id="c1")


@pytest.mark.parametrize("calls", ["add", [7], [{"arguments": {}}], [{"function": "add"}]])
def test_what_is_no_call_is_named_with_its_message(tmp_path: Path, calls: object) -> None:
    messages = [{"role": "assistant", "content": "", "tool_calls": calls}]
    path = write(tmp_path / "t.jsonl", {"prompt": messages, "answer": "2"})
    with pytest.raises(InvalidRequest, match=r"line 1: tool_calls: .* \(prompt\[0\]\)"):
        DatasetEnvironment(path=path)


def test_each_file_is_a_split(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", {"prompt": "1", "answer": "2"})
    test = write(tmp_path / "b.jsonl", *[{"prompt": "3", "answer": "4"}] * 3)
    environment = DatasetEnvironment(path=train, test_path=test)
    assert environment.splits == {"train": 1, "test": 3}
    with pytest.raises(UnknownName, match=r"'validation' is not one of dataset \(train, test\)"):
        environment.task("validation", 0, 0)


def test_a_line_separator_inside_of_a_text_ends_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "one\u2028two", "answer": "3"}\n\n', encoding="utf-8")
    assert DatasetEnvironment(path=str(path)).task("train", 0, 0).prompt == "one\u2028two"


def test_a_row_with_a_completion_demonstrates_and_one_without_says_what_is_missing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"prompt": "1+1=", "answer": "2", "completion": "it is 2"},
        {"prompt": "2+2=", "answer": "4"},
    )
    environment = DatasetEnvironment(path=path)
    assert environment.demonstration("train", 0, 0) == ("1+1=", "it is 2")
    with pytest.raises(InvalidRequest, match="completion: row 1 of split 'train' has none"):
        environment.demonstration("train", 1, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: is not JSON"),
        ("[1]", r"line 2: is a JSON list; give an object"),
        ('{"answer": "2"}', r"line 2: prompt: is missing \(there are: answer\); name another with prompt_key"),
        ('{"prompt": "x"}', r"line 2: answer: is missing \(there are: prompt\); name another with answer_key"),
        ('{"prompt": "x", "answer": "2", "payload": {}}', r"line 2: answer, payload: give exactly one"),
        ('{"prompt": "x", "answer": true}', r"line 2: answer: is True; give text or a number"),
        ('{"prompt": "x", "answer": 1e999}', r"line 2: answer: is inf; give text or a number"),
        ('{"prompt": "x", "answer": null}', r"line 2: answer: is None; give text or a number"),
        ('{"prompt": "x", "answer": []}', r"line 2: answer: is \[\]; give at least one"),
        ('{"prompt": "x", "answer": {"value": 2}}', r"line 2: answer: is {'value': 2}"),
        ('{"prompt": "x", "payload": {"answr": "2"}}', r"line 2: answr: is unknown \(known: answer, bare\)"),
        ('{"prompt": "x", "payload": "2"}', r"line 2: payload: is a str"),
        (
            '{"question": "x", "answer": "2"}',
            r"line 2: prompt: is missing \(.*the row has 'question': set prompt_key = 'question'",
        ),
        ('{"messages": [], "answer": "2"}', r"line 2: prompt: .*the row has 'messages': set messages_key = 'messages'"),
        ('{"prompt": "\\ud800", "answer": "2"}', r"line 2: prompt: has '\\ud800', half of a surrogate pair"),
        ("prompt,answer", r"line 2: is not JSON: .*is it a CSV file"),
        ("{'prompt': 'x'}", r"line 2: is not JSON: .*Python dictionary"),
        ('[{"prompt": "x"}]', r"line 2: is a JSON list; give an object on each line, without brackets"),
        ("[" * 100_000, r"line 2: is not JSON: nested too deep"),
        ('{"prompt": "x", "answer": ' + "9" * 5000 + "}", r"line 2: is not JSON: Exceeds"),
        ('{"prompt": " ", "answer": "2"}', r"line 2: prompt: is ' '; give text"),
        ('{"prompt": ["x"], "answer": "2"}', r"line 2: prompt: is \['x'\]"),
        (
            '{"prompt": [{"role": "user"}], "answer": "2"}',
            r"line 2: content: is missing \(there are: role\) \(prompt",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(f'{{"prompt": "1+1=", "answer": "2"}}\n{line}\n')
    with pytest.raises(InvalidRequest, match=rf"^path: '.*tasks\.jsonl', {message}"):
        DatasetEnvironment(path=str(path))


def test_a_file_that_cannot_be_read_or_is_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"path: '.*none\.jsonl' cannot be read .*No such file"):
        DatasetEnvironment(path=str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidRequest, match=r"path: '.*empty\.jsonl' has no rows"):
        DatasetEnvironment(path=str(tmp_path / "empty.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match=r"path: '.*binary\.jsonl' cannot be read"):
        DatasetEnvironment(path=str(tmp_path / "binary.jsonl"))


@pytest.mark.parametrize(
    ("answer", "sent"), [(5, "5"), (-3, "-3"), (0.5, "0.5"), ([1, "2"], ["1", "2"]), (10**30, str(10**30))]
)
def test_answers_may_be_numbers_or_lists(tmp_path: Path, answer: Any, sent: Any) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "answer": answer})
    assert json.loads(DatasetEnvironment(path=path, verifier="math").task("train", 0, 0).payload)["answer"] == sent


@pytest.mark.parametrize(
    ("verifier", "payload"),
    [
        ("math", {"answer": "$$"}),
        ("regex", {"pattern": "("}),
        ("countdown", {"numbers": [1], "target": "2"}),
        ("format", {"tags": []}),
        ("json_schema", {"schema": {"type": "colour"}}),
        ("code", {"kind": "stdio", "tests": []}),
        ("exact", {"answer": ""}),
        ("length", {"most": -1}),
        ("judge", {"criteria": ""}),
        ("rubric", {"payloads": []}),
        ("rubric", {"parts": []}),
    ],
)
def test_a_payload_that_its_verifier_would_refuse_is_refused_with_the_file(
    tmp_path: Path, verifier: str, payload: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "payload": payload})
    with pytest.raises(InvalidRequest, match=rf"line 1: {sorted(payload)[-1]}: "):
        DatasetEnvironment(path=path, verifier=verifier)


def test_the_parts_that_a_row_brings_are_checked_with_it(tmp_path: Path) -> None:
    payload = {"parts": [{"verifier": "math"}], "payloads": {"math": {"answer": "$$"}}}
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "payload": payload})
    with pytest.raises(InvalidRequest, match=r"line 1: answer: .* holds no answer"):
        DatasetEnvironment(path=path, verifier="rubric")


def test_a_verifier_that_is_not_installed_here_says_itself_what_it_wants(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "payload": {"any": 1}})
    assert DatasetEnvironment(path=path, verifier="elsewhere").splits == {"train": 1}


def test_the_registered_plug_in_is_this_class() -> None:
    assert plugins.load(plugins.ENVIRONMENT_GROUP, "dataset") is DatasetEnvironment
