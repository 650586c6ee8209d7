"""Where the rows of ``dataset`` come from: CSV, Parquet, JSON, saved and Hub-shaped folders, Hub names."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from rlserve.environments.files.dataset import DatasetEnvironment
from rlserve.environments.files.gsm8k import Gsm8kEnvironment
from rlserve.errors import InvalidRequest

ROWS = [{"question": f"{n}+{n}?", "answer": 2 * n, "level": n} for n in range(40)]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
OTHER_CALL = {"type": "function", "function": {"name": "sub", "arguments": {"b": 2}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same rows in every form."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        rows = datasets.Dataset.from_list(ROWS)
        rows.to_csv(str(root / "rows.csv"))
        rows.to_csv(str(root / "rows.tsv"), sep="\t")
        rows.to_parquet(str(root / "rows.parquet"))
        (root / "rows.json").write_text(json.dumps(ROWS))
        (root / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        rows.save_to_disk(str(root / "saved"))
        datasets.DatasetDict(train=rows, test=rows.select(range(3))).save_to_disk(str(root / "saved_splits"))
        for name in ("main", "hard"):
            (root / "hub" / name).mkdir(parents=True)
            rows.to_parquet(str(root / "hub" / name / "train-00000-of-00001.parquet"))
            rows.select(range(5)).to_parquet(str(root / "hub" / name / "test-00000-of-00001.parquet"))
        configs = "".join(
            f"- config_name: {name}\n  data_files:\n"
            f"  - split: train\n    path: {name}/train-*\n  - split: test\n    path: {name}/test-*\n"
            for name in ("main", "hard")
        )
        (root / "hub" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
        yield root


def made(path: Path, **options: Any) -> DatasetEnvironment:
    return DatasetEnvironment(path=str(path), **{"prompt_key": "question", **options})


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.parquet", "rows.json", "rows.jsonl", "saved"])
def test_every_form_gives_the_same_tasks(folder: Path, name: str) -> None:
    environment = made(folder / name)
    assert environment.splits == {"train": 40}
    task = environment.task("train", 7, 0)
    assert (task.prompt, task.verifier) == ("7+7?", "math")
    assert json.loads(task.payload)["answer"] == "14"
    assert environment.columns("train", 7, 0) == {**ROWS[7], "answer": "14" if name.endswith("sv") else 14}


def test_splits_of_folders_are_those_that_are_named(folder: Path) -> None:
    assert made(folder / "saved_splits", test_split="test").splits == {"train": 40, "test": 3}
    hub = made(folder / "hub", name="hard", split="train[:10]", test_split="test", validation_split="train[30:]")
    assert hub.splits == {"train": 10, "validation": 10, "test": 5}
    assert hub.task("validation", 0, 0).prompt == "30+30?"


def test_a_file_that_changed_in_a_folder_is_read_again(tmp_path: Path) -> None:
    readme = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: rows.jsonl\n---\n"
    for question in ("1+1?", "2+2?"):
        (tmp_path / "README.md").write_text(readme)
        (tmp_path / "rows.jsonl").write_text(json.dumps({"question": question, "answer": 1}))
        assert made(tmp_path, name="main").task("train", 0, 0).prompt == question


def test_a_share_is_held_out_by_the_prompt(folder: Path, tmp_path: Path) -> None:
    environment = made(folder / "rows.csv", test_fraction=0.25)
    prompts = {s: {str(environment.task(s, i, 0).prompt) for i in range(n)} for s, n in environment.splits.items()}
    assert 4 <= len(prompts["test"]) <= 16
    assert prompts["train"] | prompts["test"] == {row["question"] for row in ROWS}
    assert not prompts["train"] & prompts["test"]
    # A prompt that stands there twice is never in both.
    twice = tmp_path / "twice.jsonl"
    twice.write_text("\n".join(map(json.dumps, ROWS + ROWS)))
    again = made(twice, test_fraction=0.25)
    assert {str(again.task("test", i, 0).prompt) for i in range(again.splits["test"])} == prompts["test"]


def test_an_answer_of_a_table_stays_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text('prompt,answer,hint\n"How, in three digits?",007,\nNone?,None,x\n')
    environment = DatasetEnvironment(path=str(path), verifier="exact")
    answers = [json.loads(environment.task("train", i, 0).payload)["answer"] for i in range(2)]
    assert answers == ["007", "None"]
    assert environment.columns("train", 0, 0)["hint"] == ""


def test_objects_of_arrow_have_only_their_own_keys(tmp_path: Path) -> None:
    turns = [
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        for call in (CALL, OTHER_CALL)
    ]
    rows = [{"messages": [*t, {"role": "tool", "content": "1"}], "answer": 1} for t in turns]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "calls.parquet"))
    environment = DatasetEnvironment(path=str(tmp_path / "calls.parquet"), messages_key="messages")
    sent = [environment.task("train", i, 0).prompt[1].tool_calls for i in range(2)]  # type: ignore[union-attr]
    assert [json.loads(call) for (call,) in sent] == [CALL, OTHER_CALL]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "rows.csv",
            {"prompt_key": "prompt"},
            r"row 1: prompt: is missing \(there are: question, answer, level\)",
        ),
        ("rows.parquet", {"answer_key": "gold"}, "row 1: gold: is missing .*there are: question, answer, level"),
        ("rows.parquet", {"name": "main"}, "^name: is 'main', but .* is not a folder or a Hub name"),
        ("hub", {}, r"cannot be loaded \(ValueError: Config name is missing.*'main', 'hard'"),
        ("hub", {"name": "easy"}, r"^name: .*BuilderConfig 'easy' not found. Available: \['main', 'hard'\]"),
        (
            "hub",
            {"name": "main", "split": "dev"},
            r"^split: .*Unknown split \"dev\". Should be one of \['train'",
        ),
        ("hub", {"name": "main", "test_split": "dev"}, r"^test_split: .*Unknown split \"dev\""),
        ("hub", {"name": "main", "revision": "v1"}, "^revision: is 'v1', but .* is not a Hub name; leave it out"),
        ("saved", {"split": "dev"}, "^split: is 'dev', but .* is one saved split; .*test_fraction"),
        ("saved_splits", {"test_split": "dev"}, r"^test_split: 'dev' is not in .* \(it has train, test\)"),
        ("rows.csv", {"test_split": "test"}, "^test_split: is 'test', but .* is one file"),
        ("rows.csv", {"test_split": "train"}, "test_split: is 'train', which training draws from"),
        ("rows.csv", {"test_fraction": 1.5}, "test_fraction: is 1.5; give a share between 0 and 1"),
        ("rows.csv", {"test_fraction": 1e-9}, "leaves none for test"),
        ("rows.csv", {"test_fraction": 0.5, "test_path": "x.csv"}, "test_fraction: is given beside"),
        ("hub/nothing", {}, r"No such file|there is no file or folder"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_option(
    folder: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        made(folder / name, **options)


def test_faults_of_files_name_what_is_wrong_with_them(tmp_path: Path) -> None:
    broken = {
        "ragged.csv": ("question,answer\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3"),
        "empty.csv": ("question,answer\n", "has no rows"),
        "blank.csv": ("", "No columns to parse"),
        "fake.parquet": ("question,answer\n", "Parquet"),
    }
    for name, (text, message) in broken.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidRequest, match=message) as caught:
            made(tmp_path / name)
        assert name in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidRequest, match="doesn't contain any data files"):
        made(tmp_path / "folder")


def test_a_column_that_no_function_can_be_sent_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"question": "?", "answer": 1, "picture": b"\x89"}]).to_parquet(
        str(tmp_path / "a.parquet")
    )
    environment = made(tmp_path / "a.parquet")
    assert environment.task("train", 0, 0).payload == b'{"answer": "1"}'
    with pytest.raises(InvalidRequest, match=r"picture: holds bytes.*list the columns to send in `columns`"):
        environment.columns("train", 0, 0)
    assert made(tmp_path / "a.parquet", columns=["question"]).columns("train", 0, 0) == {"question": "?"}


def test_a_hub_name_without_a_network_is_told_within_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(InvalidRequest, match=r"no file or folder 'own/sums', and as a Hub name .*rlserve data fetch"):
        DatasetEnvironment(path="own/sums")
    assert time.monotonic() - started < 5


def test_the_other_environments_of_files_read_tables_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nHow many?,72\n")
    task = Gsm8kEnvironment(path=str(tmp_path / "a.csv")).task("train", 0, 0)
    assert json.loads(task.payload) == {"answer": "72"}
