"""``rlserve data``: well-known data sets as files that their environments read, and what is in any data set."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlserve import hugging_face, plugins
from rlserve.cli.main import main
from rlserve.config.load import load_run
from rlserve.data.known import KNOWN
from rlserve.launch.preflight.tasks import Taken, look_at_environment
from rlserve.launch.preflight.verdicts import look_at_verifier, wanted
from tests.support.hugging_face_hub import hub_of

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "Two and two.\n#### 4"},
    "math": {"problem": "$1+1$?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{2}$."},
    "mbpp": {
        "task_id": 2,
        "text": "Double it.",
        "code": "def double(x):\n    return 2 * x\n",
        "test_setup_code": "",
        "test_list": ["assert double(2) == 4"],
    },
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "def double(x):\n",
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(f):\n    assert f(2) == 4\n",
    },
}
Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> tuple[int, str]:
        status = main(words)
        printed = capsys.readouterr()
        return status, printed.out if status == 0 else printed.err

    return run


def copy_of(name: str, folder: Path, row: dict[str, Any]) -> Path:
    """What ``git clone`` of the repository on the Hub leaves: a README that names configurations, a file each split."""
    parts, configs = KNOWN[name].names, ""
    for part in parts:
        (folder / part).mkdir(parents=True)
        configs += f"- config_name: {part}\n  data_files:\n"
        for split in KNOWN[name].files:
            (folder / part / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
            configs += f"  - split: {split}\n    path: {part}/{split}.jsonl\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_fetched_data_set_is_what_its_environment_reads(name: str, tmp_path: Path, say: Say) -> None:
    copy = copy_of(name, tmp_path / "copy", ROWS[name])
    status, printed = say("data", "fetch", name, "--from", str(copy))
    assert status == 0, printed
    table = tomllib.loads(printed[printed.index("[[environments]]") :])["environments"][0]
    environment = plugins.make(plugins.ENVIRONMENT_GROUP, table["name"], table["options"], where="options")
    assert environment.splits == dict.fromkeys(KNOWN[name].files, len(KNOWN[name].names))
    for split in environment.splits:
        assert environment.demonstration(split, 0, 0)
    first = next(iter(table["options"].values()))
    assert json.loads(Path(first).read_text().splitlines()[0]) == ROWS[name]
    assert f"{first:32} {len(KNOWN[name].names)} rows" in printed
    # Again: what is there may be changed by hand, and is kept.
    status, said = say("data", "fetch", name, "--from", str(copy))
    assert status == 1 and "is there already; delete it" in said


SHARED = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
SIZES = {"gsm8k": {"train": 7473, "test": 1319}, "humaneval": {"test": 164}}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets' files; set RLSERVE_SHARED to their folder")
@pytest.mark.parametrize(("name", "rewards"), [("gsm8k", "math"), ("humaneval", "code")])
def test_real_data_sets_are_fetched_shown_sampled_and_checked(
    name: str, rewards: str, tmp_path: Path, say: Say
) -> None:
    given = SHARED / "humaneval.jsonl"
    if name == "gsm8k":
        given = copy_of(name, tmp_path / "copy", {})
        for split in SIZES[name]:
            shutil.copy(SHARED / f"gsm8k_{split}.jsonl", given / "main" / f"{split}.jsonl")
    status, printed = say("data", "fetch", name, "--from", str(given))
    assert status == 0, printed
    table = printed[printed.index("[[environments]]") :]
    options = tomllib.loads(table)["environments"][0]["options"]
    for path, rows in zip(options.values(), SIZES[name].values(), strict=True):
        assert f"{path:32} {rows} rows" in printed
        assert say("data", "show", path)[1].startswith(f"{rows} rows\n")
    words = [word for option in options.items() for word in ("--option", "=".join(option))]
    last = next(reversed(SIZES[name]))
    status, printed = say("env", "sample", name, *words, "--split", last, "-n", "1", "--json")
    assert status == 0 and json.loads(printed)["verifier"] == rewards
    # What preflight looks at before a run: tasks of each split, and verdicts on right answers.
    # HumanEval is for measuring alone.
    split = "" if name == "gsm8k" else 'weight = 0\neval_weight = 1\n[[environments]]\nname = "arithmetic"'
    (tmp_path / "run.toml").write_text(f'name = "a"\n[model]\npath = "m"\n{table}\n{split}\n')
    config, taken = load_run([tmp_path / "run.toml"]), list[Taken]()
    found = list(look_at_environment(config, 0, taken))
    assert sum(len(part.tasks) for part in taken) >= 55 and all(part.answer for part in taken)
    found += [
        f for n, (key, task, answer) in wanted(taken).items() for f in look_at_verifier(config, n, key, task, answer)
    ]
    assert found == []


@pytest.mark.parametrize("configuration", ["gsm8k", "gpu/gsm8k_qwen"])
def test_the_shipped_configurations_name_what_is_fetched(configuration: str, tmp_path: Path, say: Say) -> None:
    copy = copy_of("gsm8k", tmp_path / "copy", ROWS["gsm8k"])
    assert say("data", "fetch", "gsm8k", "--from", str(copy))[0] == 0
    section = load_run([configuration]).environments[0]
    assert plugins.make(plugins.ENVIRONMENT_GROUP, section.name, section.options, where="options").splits["train"] == 1


def test_a_faulty_copy_leaves_no_file(tmp_path: Path, say: Say) -> None:
    copy = copy_of("gsm8k", tmp_path / "copy", {"question": "How many?", "answer": "four"})
    status, said = say("data", "fetch", "gsm8k", "--from", str(copy))
    assert status == 1 and "line 1: answer: ends in 'four'" in said
    assert list((tmp_path / "data").iterdir()) == []
    (tmp_path / "data").rmdir()
    (tmp_path / "data").write_text("in the way")
    status, said = say("data", "fetch", "gsm8k", "--from", str(copy))
    assert status == 1 and "--to: 'data' cannot be written" in said


def test_without_a_network_the_way_out_is_named(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    status, said = say("data", "fetch", "humaneval")
    assert status == 1
    assert "cannot be reached from here; fetch the data where there is a network" in said
    assert "datasets/openai/openai_humaneval with --from" in said


def test_columns_and_first_rows_are_shown(tmp_path: Path, say: Say) -> None:
    (tmp_path / "a.csv").write_text("question,answer,note\n1+1?,2,\n2+2?,4,easy\n3+3?,6,\n")
    status, printed = say("data", "show", "a.csv", "-n", "1")
    assert status == 0
    assert printed.splitlines() == [
        "3 rows",
        "  question             text",
        "  answer               number",
        "  note                 text, empty in 2",
        '{"question": "1+1?", "answer": 2, "note": ""}',
    ]
    assert say("data", "show", "b.csv")[0] == 1


ASK = "import sys\nfrom rlserve.cli.main import main\nfor words in sys.argv[1:]:\n    main(words.split())\n"


def test_the_hub_is_asked_and_then_its_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "datasets" / "openai" / "gsm8k"
    copy_of("gsm8k", repository, ROWS["gsm8k"])
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}

    def said(*commands: str) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-c", ASK, *commands]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    with hub_of(tmp_path / "hub") as environment["HF_ENDPOINT"]:
        asked = said(
            "data fetch gsm8k",
            "data show openai/gsm8k --name min",
            "data show openai/gsm8k --name main --split tst",
            "data show openai/gsm9k",
            "env sample dataset --option path=openai/gsm8k --option name=main --option revision=v9",
        )
    assert json.loads((tmp_path / "data" / "gsm8k_test.jsonl").read_text()) == ROWS["gsm8k"]
    assert "data/gsm8k_train.jsonl           1 rows" in asked.stdout
    for told in (
        "name: 'openai/gsm8k' cannot be loaded (ValueError: BuilderConfig 'min' not found. Available: ['main'])",
        "split: 'openai/gsm8k' cannot be loaded (ValueError: Unknown split \"tst\". Should be one of",
        "path: there is no file or folder 'openai/gsm9k' (DatasetNotFoundError: Dataset 'openai/gsm9k' doesn't exist",
        "--option.revision: 'openai/gsm8k' cannot be loaded (DatasetNotFoundError: Revision 'v9' doesn't exist",
    ):
        assert told in asked.stderr
    again = said("data show openai/gsm8k --name main", "data show openai/gsm9k")
    assert again.stdout.startswith("1 rows") and json.dumps(ROWS["gsm8k"]) in again.stdout
    assert "'openai/gsm9k', and as a Hub name it is not in the cache and the Hub cannot be reached" in again.stderr


def test_a_mirror_is_asked_and_a_dead_one_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hugging_face.endpoint() == "http://127.0.0.1:9"
    assert not hugging_face.answers()


def test_a_network_that_swallows_everything_is_given_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert not any(hugging_face.answers() for _ in range(3))
        assert time.monotonic() - started < 2 * hugging_face.SECONDS
