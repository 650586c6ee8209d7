"""SmolLM2-135M-Instruct on a CPU: chat template, 49,152 tokens, 540 MB of float32 weights a step.

The checkpoint is at ``RLSERVE_REAL_MODEL``, or is made by the script beside the checkout (once, from a package of the
index). Every run is of a few steps with short completions: what is tried is that nothing breaks or crawls.
"""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from rlserve.bench.real_model import measure
from rlserve.errors import TASK_FAULTS

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("RLSERVE_SHARED", ROOT / ".." / "shared"))
SCRIPT = SHARED / "models" / "smollm2_135m.py"
GIVEN = os.environ.get("RLSERVE_REAL_MODEL", "")
QUIET = {"OMP_WAIT_POLICY": "passive"}

pytestmark = [
    pytest.mark.whole,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not (GIVEN or SCRIPT.exists()), reason=f"needs RLSERVE_REAL_MODEL or {SCRIPT.name}"),
]

SECTIONS = """
directory = "{root}"
steps = 2
[model]
path = "{model}"
max_length = 128
[[environments]]
name = "dataset"
options = {{ path = "{root}/train.jsonl", test_path = "{root}/test.jsonl", verifier = "math" }}
[rollout]
group_size = 4
max_groups_in_flight = 8
max_new_tokens = 16
dtype = "float32"
[learner]
dtype = "float32"
lr = 3e-5
groups_per_step = 2
tokens_per_micro_batch = 1024
max_lag = 2
max_wait_seconds = 1200
lease_seconds = 600
[evaluate]
problems = 4
[checkpoint]
every_steps = 1
[launch]
start_seconds = 900
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    if GIVEN:
        return GIVEN
    path = tmp_path_factory.mktemp("smollm2") / "model"
    made = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{SCRIPT.name} cannot make it here: {made.stderr[-500:]}")
    return str(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are, with their tasks: sums of two digits, asked in a chat message."""
    path = tmp_path_factory.mktemp("real")
    pairs = [(a, b) for a in range(10) for b in range(10)]
    random.Random(0).shuffle(pairs)
    for name, chosen in {"train": pairs[:80], "test": pairs[80:]}.items():
        lines = (
            {"prompt": [{"role": "user", "content": f"What is {a} + {b}?"}], "answer": str(a + b)} for a, b in chosen
        )
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return path


def rlserve(*arguments: str) -> str:
    """What a command prints; its seconds go to the test's own output."""
    started = time.monotonic()
    command = [sys.executable, "-m", "rlserve.cli.main", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2000, env=os.environ | QUIET)
    print(f"{arguments[0]} {Path(arguments[1]).name}: {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def run(root: Path, name: str, model: str, extra: str, *overrides: str) -> Mapping[str, Any]:
    """A run's summary, once what must hold for every one does."""
    text = f'name = "{name}"' + SECTIONS.format(root=root, model=model) + extra
    (root / f"{name}.toml").write_text(text)
    rlserve("run", str(root / f"{name}.toml"), *(part for o in overrides for part in ("--set", o)))
    return checked(root / name, steps=2)


def steps_of(directory: Path) -> list[dict[str, Any]]:
    """The metrics of optimizer steps, without those of evaluations."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "learner/loss" in row]


def checked(directory: Path, *, steps: int) -> Mapping[str, Any]:
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    groups = summary["groups"]
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    assert summary["steps"] == steps
    assert summary["weight_mismatches"] == 0
    assert groups["received"] == groups["consumed"] + groups["queued"] + sum(groups["dropped"].values())
    assert not set(groups["dropped"]) & {*TASK_FAULTS, "returned", "expired", "no_verdict"}
    assert not [e for e in events if e["event"] in ("actor_died", "run_failed")]
    metrics = steps_of(directory)
    assert [row["step"] for row in metrics] == list(range(1, steps + 1))
    assert all(row["reward/no_verdict_share"] == 0 for row in metrics)
    return summary


def test_grpo_resume_eval_and_generate(root: Path, model: str) -> None:
    run(root, "grpo", model, '[algorithm]\ntype = "grpo"\n')
    metrics = steps_of(root / "grpo")
    assert metrics[0]["algorithm/ess"] > 0.99
    assert metrics[0]["algorithm/mismatch_kl"] < 1e-3
    rlserve("run", "--resume", str(root / "grpo"), "--set", "steps=3", "--set", "evaluate.problems=0")
    checked(root / "grpo", steps=3)
    result = json.loads(rlserve("eval", str(root / "grpo"), "--problems", "4", "--json").strip().splitlines()[-1])
    assert 0 <= result["accuracy"] <= 1
    samples = root / "samples.jsonl"
    rlserve("generate", str(root / "grpo"), "--out", str(samples), "--problems", "4", "--samples", "2")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 8
    assert all(row["completion"].strip() and "<|im_end|>" not in row["completion"] for row in rows)
    assert not all(row["truncated"] for row in rows)


def test_the_bench_trains_it_by_online_dpo(root: Path, model: str) -> None:
    short = root / "short.toml"
    short.write_text('base = "smollm2"\nsteps = 2\n[learner]\nmax_wait_seconds = 1200\n[evaluate]\nproblems = 4\n')
    out = root / "bench"
    measured = measure(config=str(short), model=model, out=str(out), seeds=1, only=["dpo_online"])
    checked(out / "seed-0" / "dpo_online", steps=2)
    assert measured["dpo_online"]["ess_min"] > 0.5
    assert (out / "real_model.png").stat().st_size > 1000


def test_it_teaches_a_smaller_student_with_another_tokenizer(root: Path, model: str, student: str) -> None:
    teacher = f'[[teachers]]\nname = "smol"\nmodel = "{model}"\ndtype = "float32"\nmax_length = 256\n'
    extra = '[algorithm]\ntype = "distill"\n' + teacher
    run(root, "distill", student, extra, "evaluate.problems=0")
    assert all(row["algorithm/taught"] > 0 for row in steps_of(root / "distill"))


@pytest.fixture
def student(root: Path, model: str) -> str:
    """A random model of 1M parameters that writes byte pairs of its own in the same chat template."""
    from transformers import AutoTokenizer

    from rlserve.config.tables.pretrain import TokenizerConfig
    from rlserve.pretrain.tokenizer import train_tokenizer
    from tests.support.models.tiny_policies import tiny_model

    texts = (root / "train.jsonl").read_text().splitlines()
    tokenizer = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=400), texts, max_length=128)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = AutoTokenizer.from_pretrained(model).chat_template
    path = root / "student"
    tiny_model("llama", tied=True, vocab_size=512, eos_token_id=tokenizer.eos_token_id).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_the_example_of_readme_trains_it_on_a_hub_shaped_folder(model: str, tmp_path: Path) -> None:
    """As on the Hub: a model and a data set by owner and name, here as folders."""
    (code,) = re.findall(r"```python\n(import rlserve\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    named = re.search(r'model="(.*)"', code)
    assert named is not None
    (tmp_path / named[1]).parent.mkdir()
    (tmp_path / named[1]).symlink_to(model)
    rows = [{"prompt": f"What is {a} plus {b}?", "answer": a + b} for a in range(20) for b in range(20)]
    (tmp_path / "someone" / "sums" / "data").mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "someone/sums/data/train-00000-of-00001.parquet"))
    (tmp_path / "someone/sums/README.md").write_text("---\nlicense: mit\n---\n# Sums\n")
    # The machine may be busy: nothing here is about time.
    patient = "max_wait_seconds=1200, lease_seconds=600, launch={'start_seconds': 900},"
    few = f"steps=2, groups_per_step=4, problems=8, {patient}"
    (tmp_path / "example.py").write_text(code.replace("prompts.jsonl", "someone/sums").replace("steps=20,", few))
    command, environment = [sys.executable, "example.py"], {**os.environ, **QUIET}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reward, checkpoint = done.stdout.splitlines()[-1].split()
    assert 0 <= float(reward) <= 1 and (tmp_path / checkpoint / "model.safetensors").exists()
