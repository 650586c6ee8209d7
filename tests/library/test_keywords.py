"""Keyword arguments of ``rlserve.train`` as a configuration: what each may be, and what a wrong one is answered."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

import rlserve
from rlserve.actors.environment.main import load_environments
from rlserve.config.load import load_run
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import ConfigError, InvalidRequest
from rlserve.library.run import _with_prompts as with_prompts
from rlserve.library.train import Given, plan
from rlserve.records import Message
from tests.support import user_functions
from tests.support.user_files import ENVIRONMENT, LOSS

GIVEN = set(Given.__dataclass_fields__)
ROWS = [{"question": f"{n}+1=", "answer": n + 1} for n in range(20)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 128}')
    return tmp_path / "model"


def planned(config: Any = None, **keywords: Any) -> tuple[rlserve.RunConfig, Mapping[str, Any]]:
    given = Given(**{name: value for name, value in keywords.items() if name in GIVEN})
    made, inputs = plan(config, given, {name: value for name, value in keywords.items() if name not in GIVEN})
    return made, inputs.files


def test_names_alone_tables_and_sections_say_the_same(model: Path) -> None:
    short, _ = planned(model=model, environment="arithmetic", name="a", lr=1e-4, group_size=4, steps=7, clip_low=0.1)
    table, _ = planned(
        model={"path": str(model)},
        environment={"name": "arithmetic"},
        name="a",
        learner={"lr": 1e-4},
        rollout={"group_size": 4},
        steps=7,
        algorithm={"type": "grpo", "clip_low": 0.1},
        max_length=128,
        max_new_tokens=64,
    )
    assert short.learner == table.learner and short.steps == table.steps == 7
    assert short.algorithm == table.algorithm and short.rollout.group_size == 4
    section, _ = planned(short, learner=LearnerConfig(lr=3e-4))
    assert section.learner.lr == 3e-4 and section.rollout == short.rollout


def test_what_is_left_open_fits_the_model_and_the_machine(model: Path) -> None:
    made, _ = planned(model=model, environment="arithmetic")
    assert made.model.max_length == 128 and made.rollout.max_new_tokens == 64
    assert made.name.startswith("grpo-") and made.directory == "runs"


def test_a_configuration_is_a_base_and_none_unsets(model: Path) -> None:
    made, _ = planned("configs/quickstart.toml", stop_reward=None, seed=3)
    assert made.stop_reward is None and made.seed == 3 and made.pretrain is not None
    assert made == load_run(["configs/quickstart.toml"], ["seed=3"], ["stop_reward"])
    started, _ = planned("configs/quickstart.toml", model=model)
    assert started.pretrain is None and started.sft is None and started.model.max_length == 64


def test_data_of_every_kind(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for data, suffix in (
        (tmp_path / "rows.jsonl", "rows.jsonl"),
        (ROWS, ".jsonl"),
        (datasets.Dataset.from_list(ROWS), ".parquet"),
    ):
        made, files = planned(model=model, data=data, prompt_key="question", directory=str(tmp_path), name="d")
        (environment,) = made.environments
        options = environment.options
        assert environment.name == "dataset" and options["prompt_key"] == "question" and options["test_fraction"] == 0.1
        assert options["path"].endswith(suffix) and made.evaluate.problems == 64
        for name, write in files.items():
            write(tmp_path / name)
        read = tmp_path / Path(options["path"]).name
        rows = datasets.load_dataset("parquet" if suffix == ".parquet" else "json", data_files=str(read), split="train")
        assert rows.to_list() == ROWS
    both, files = planned(model=model, data={"train": ROWS, "test": ROWS[:3]}, prompt_key="question")
    assert set(both.environments[0].options) == {"path", "test_path", "prompt_key"} and len(files) == 2


def test_functions_and_classes_go_by_their_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, files = planned(model=model, environment="arithmetic", reward=user_functions.short)
    assert made.reward[0].function == f"{Path(user_functions.__file__)}:short" and not files
    pairs = [(user_functions.short, 0.5), "my.py:f", {"function": user_functions.long, "weight": 2}]
    made, _ = planned(model=model, environment="arithmetic", reward=pairs)
    assert [r.weight for r in made.reward] == [0.5, 1.0, 2.0]
    assert made.reward[1].function == f"{Path.cwd()}/my.py:f"
    for file, text in (("an_env.py", ENVIRONMENT), ("a_loss.py", LOSS)):
        (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import a_loss  # type: ignore[import-not-found]
    import an_env  # type: ignore[import-not-found]

    made, _ = planned(model=model, environment=an_env.Doubles, algorithm=a_loss.Plain)
    assert made.environments[0].plugin == f"{tmp_path}/an_env.py:Doubles"
    assert made.algorithm.type == f"{tmp_path}/a_loss.py:Plain"


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"learning_rate": 1e-4}, "learning_rate: unknown key; here it is called learner.lr"),
        ({"num_generations": 4}, "num_generations: unknown key; here it is called rollout.group_size"),
        ({"stepz": 4}, "stepz: unknown key; did you mean 'steps'?"),
        ({"dtype": "float32"}, "dtype: is a key of several tables (rollout.dtype, learner.dtype); give one, e.g."),
        ({"lr": -1}, "learner.lr: is -1; input should be greater than 0"),
        ({"algorithm": "dpo", "clip_low": 0.1}, "clip_low: unknown key"),
        ({"data": ROWS}, "environment: is given beside data; leave one of the two out"),
        ({"reward": lambda completions: [0.0]}, "reward: is a lambda, which has no name; write it with `def`"),
        ({"reward": 3}, "reward: is 3 (a int); give a function or class"),
        ({"environment": None, "data": [1, 2]}, "data: is [1, 2] (a list); give a path, a list of dicts"),
        ({"environment": None, "data": {"test": ROWS}}, "data: has no 'train'"),
        ({"environment": None, "data": [{"x": {1}}]}, "data: row 0 cannot be written as JSON"),
    ],
)
def test_a_wrong_keyword_is_answered_with_the_right_one(model: Path, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        planned(**{"model": model, "environment": "arithmetic", **keywords})
    assert said in str(error.value)


def test_all_faults_at_once(model: Path) -> None:
    with pytest.raises(ConfigError) as error:
        planned(model=model, environment="arithmetic", learning_rate=1, steps="many")
    assert len(str(error.value).splitlines()) == 2


def test_an_import_is_quick_and_loads_nothing() -> None:
    program = "import rlserve, sys; print([m for m in ('pydantic', 'grpc', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    assert set(rlserve.__all__) <= set(dir(rlserve)) and callable(rlserve.train)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rlserve.trian  # type: ignore[attr-defined]  # noqa: B018


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is not a run"):
        rlserve.Run(tmp_path)


def test_prompts_are_asked_in_the_form_of_the_run(model: Path, tmp_path: Path) -> None:
    config, _ = planned(model=model, data=ROWS, prompt_key="question", prompt_format="chat", reward="my.py:f")
    asked = with_prompts(config, ["2+2=", "3+3="], str(tmp_path))
    (environment,) = load_environments(asked.rewarded_environments).values()
    task = environment.task("train", 1, 0)
    assert task.prompt == (Message(role="user", content="3+3="),) and task.task_id == "train/1" and not asked.reward
