"""GSM8K from files: gold answers, prompt formats, clear errors; the whole public file when it is there."""

import json
import os
from pathlib import Path

import pytest

from rlserve import plugins
from rlserve.environments.files.gsm8k import INSTRUCTION, Gsm8kEnvironment
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Message

ROW = {
    "question": "Tom has 3 boxes of 500 nails. How many nails are there?",
    "answer": "There are 3*500 = <<3*500=1500>>1500 nails.\n#### 1,500",
}


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture
def environment(tmp_path: Path) -> Gsm8kEnvironment:
    return Gsm8kEnvironment(path=write(tmp_path / "train.jsonl", ROW), prompt_format="text")


def test_the_registered_plug_in_is_this_class() -> None:
    assert plugins.load(plugins.ENVIRONMENT_GROUP, "gsm8k") is Gsm8kEnvironment


def test_the_gold_answer_loses_its_thousands_separators(environment: Gsm8kEnvironment) -> None:
    task = environment.task("train", 0, 0)
    assert (task.verifier, json.loads(task.payload)) == ("math", {"answer": "1500"})


@pytest.mark.parametrize(("written", "gold"), [("-3", "-3"), ("0.5", "0.5"), (".5", ".5"), ("1,234,567", "1234567")])
def test_any_number_may_be_gold(tmp_path: Path, written: str, gold: str) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "How many?", "answer": f"So.\n#### {written}"})
    assert json.loads(Gsm8kEnvironment(path=path).task("train", 0, 0).payload) == {"answer": gold}


@pytest.mark.parametrize(
    ("answer", "gold"), [(72, "72"), (-1.5, "-1.5"), ("72", "72"), ("1,500", "1500"), ("So.\n#### $18", "18")]
)
def test_an_answer_may_be_the_number_alone(tmp_path: Path, answer: object, gold: str) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "How many?", "answer": answer})
    environment = Gsm8kEnvironment(path=path)
    assert json.loads(environment.task("train", 0, 0).payload) == {"answer": gold}
    assert (
        environment.demonstration("train", 0, 0)[1].endswith(f"#### {gold}") or "," in str(answer) or "$" in str(answer)
    )


def test_a_text_prompt_is_the_question_and_a_line_break(environment: Gsm8kEnvironment) -> None:
    assert environment.task("train", 0, 0).prompt == ROW["question"] + "\n"


def test_a_chat_prompt_is_one_user_message_with_the_instruction(tmp_path: Path) -> None:
    environment = Gsm8kEnvironment(path=write(tmp_path / "train.jsonl", ROW))
    content = f"{ROW['question']}\n{INSTRUCTION}"
    assert environment.task("train", 0, 0).prompt == (Message(role="user", content=content),)


def test_a_demonstration_is_the_solution_without_calculator_marks(environment: Gsm8kEnvironment) -> None:
    prompt, completion = environment.demonstration("train", 0, 0)
    assert prompt == environment.task("train", 0, 0).prompt
    assert completion == "There are 3*500 = 1500 nails.\n#### 1,500"


def test_there_is_a_test_split_only_with_a_test_file(environment: Gsm8kEnvironment) -> None:
    assert environment.splits == {"train": 1}
    with pytest.raises(UnknownName, match=r"'test' is not one of gsm8k \(train\)"):
        environment.task("test", 0, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "How many?"}, "answer: is missing (there are: question)"),
        ({"question": "How many?", "answer": "It is 4."}, "answer: ends in 'It is 4.'; it must end in '#### <number>'"),
        ({"question": "", "answer": "#### 4"}, "question: is ''; give text"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "bad.jsonl", ROW, row)
    with pytest.raises(InvalidRequest) as caught:
        Gsm8kEnvironment(path=path)
    assert str(caught.value) == f"path: {path!r}, line 2: {message}"


def test_an_unknown_prompt_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="prompt_format: is 'html'"):
        Gsm8kEnvironment(path=write(tmp_path / "train.jsonl", ROW), prompt_format="html")


def test_every_problem_of_the_public_files_is_understood() -> None:
    data = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    if not (data / "gsm8k_train.jsonl").exists():
        pytest.skip("RLSERVE_SHARED names no folder with data/gsm8k_train.jsonl and data/gsm8k_test.jsonl")
    environment = Gsm8kEnvironment(path=str(data / "gsm8k_train.jsonl"), test_path=str(data / "gsm8k_test.jsonl"))
    assert environment.splits == {"train": 7473, "test": 1319}
    for split, size in environment.splits.items():
        for index in range(size):
            gold = json.loads(environment.task(split, index, 0).payload)["answer"]
            float(gold)
            assert "<<" not in environment.demonstration(split, index, 0)[1]
