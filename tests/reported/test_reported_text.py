"""Prompts, tokens and models of public reports: what a task or a checkpoint brings is taken, or told and counted."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlserve.config.load import load_run
from rlserve.errors import InvalidRequest
from rlserve.records import Task
from rlserve.tokens.model_tokens import ModelTokens, given_tokens
from rlserve.tokens.prompts import encode_prompt
from tests.support.models import characters
from tests.support.models.tiny_policies import tiny_model
from tests.support.reported import cases

KINDS = (
    "overlong-prompts",
    "end-tokens",
    "padded-vocabulary",
    "special-tokens-unseen",
    "prompt-special-tokens",
    "template-error-ends-worker",
)
ROOT = Path(__file__).parents[2]
REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
ENVIRONMENT = '[[environments]]\nname = "dataset"\noptions = {{ path = "{path}", verifier = "length" }}\n'


def task(prompt: str) -> Task:
    return Task(environment="e", split="train", index=0, task_id="t", prompt=prompt, verifier="v", payload=b"")


def save_checkpoint(path: Path, tokenizer: Any, **changes: Any) -> ModelTokens:
    """A real tiny checkpoint; returns its tokens as every actor loads them."""
    tiny_model("llama", tied=True, **changes).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return ModelTokens.load(str(path))


@pytest.mark.parametrize("row", cases("end-tokens"))
def test_every_end_token_of_the_checkpoint_ends_generation(row: Mapping[str, Any], tmp_path: Path) -> None:
    assert row["expected"] == "generation ends at 2 and at 17"
    save_checkpoint(tmp_path, characters.tokenizer())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 17]}')
    assert ModelTokens.load(str(tmp_path)).ends_of(task("3+4=")) == (2, 17)


@pytest.mark.parametrize("row", cases("prompt-special-tokens"))
def test_special_tokens_are_there_once(row: Mapping[str, Any]) -> None:
    how, tokenizer = row["input"]["how"], characters.tokenizer()
    if how.startswith("encode_prompt"):
        ids = encode_prompt(tokenizer, task("<bos>3+4="), max_tokens=20).token_ids
        assert ids == tokenizer.encode("3+4=")
        assert ids.count(tokenizer.bos_token_id) == 1
    else:
        assert how.startswith("given_tokens")
        ids = given_tokens(tokenizer, "7;#7<eos>")
        assert ids == characters.ids("7;#7<eos>")
        assert ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("row", cases("special-tokens-unseen"))
def test_tags_that_are_special_tokens_reach_the_verifier(row: Mapping[str, Any], tmp_path: Path) -> None:
    assert row["expected"] == "the tags are in the text"
    tokenizer = characters.tokenizer().__class__.from_pretrained(_saved(tmp_path))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    text = "<think>3+4</think>#7"
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    assert len(ids) == 8
    assert ModelTokens.of(tokenizer).text(ids) == text


def _saved(path: Path) -> Path:
    characters.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def strange_run(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """A run whose model and tasks are as in the reports: a padded embedding, a template that refuses a role, a prompt
    that is too long. Its metrics, warnings and summary.
    """
    root = tmp_path_factory.mktemp("strange")
    tokenizer = characters.tokenizer().__class__.from_pretrained(_saved(root / "tokenizer"))
    tokenizer.chat_template = REFUSES_SYSTEM
    save_checkpoint(root / "model", tokenizer)
    rows: list[Any] = ["3+4=", "1+" * 33 + "1=", [{"role": "user", "content": "5-2="}]]
    rows.append([{"role": "system", "content": "1"}, *rows[2]])
    payload = {"target": 10, "tolerance": 30}
    lines = (json.dumps({"prompt": prompt, "payload": payload}) for prompt in rows)
    (root / "tasks.jsonl").write_text("\n".join(lines))
    (root / "run.toml").write_text(
        f'name = "strange"\ndirectory = "{root}"\nsteps = 3\n[model]\npath = "{root / "model"}"\nmax_length = 64\n'
        + ENVIRONMENT.format(path=root / "tasks.jsonl")
        + '[rollout]\ngroup_size = 4\nmax_new_tokens = 38\ndtype = "float32"\n'
        '[learner]\ndtype = "float32"\ngroups_per_step = 2\ntokens_per_micro_batch = 256\nmax_lag = 1\n'
        "[evaluate]\nproblems = 0\n[launch]\nstart_seconds = 400\n"
    )
    command = [sys.executable, "-m", "rlserve.cli.main", "run", str(root / "run.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    directory = root / "strange"
    logs = "\n".join(log.read_text()[-1500:] for log in sorted((directory / "logs").glob("*.log")))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{logs}"
    return {
        "output": done.stdout,
        "events": [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()],
        "groups": json.loads((directory / "summary.json").read_text())["groups"],
    }


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("row", cases("overlong-prompts", "padded-vocabulary", "template-error-ends-worker"))
def test_what_a_task_or_a_model_brings_ends_no_run(row: Mapping[str, Any], request: pytest.FixtureRequest) -> None:
    if row["id"] == "tok-env-sampling-limit":
        with pytest.raises(InvalidRequest, match=r"environments\.0\.sampling\.max_new_tokens: is 512"):
            load_run(["configs/quickstart.toml"], [row["input"]["how"].split("--set ")[1].split()[0]])
        return
    run = request.getfixturevalue("strange_run")
    dropped, died = run["groups"]["dropped"], [e for e in run["events"] if e["event"] == "actor_died"]
    assert not died
    match row["kind"]:
        case "overlong-prompts":
            assert dropped["prompt_too_long"] >= 1
        case "template-error-ends-worker":
            assert dropped["template_failed"] >= 1
        case "padded-vocabulary":
            assert run["groups"]["consumed"] == 6
            assert not run["groups"].get("rejected")
