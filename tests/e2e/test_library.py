"""``import rlserve`` as a user writes it: scripts that train, whatever they are started from, and README's own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.models.chat_model import save_chat_model, save_questions

pytestmark = [pytest.mark.whole, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "passive"}
OWN = """
import math

import rlserve

FACTOR = 1.0


def share(text):
    return FACTOR * sum(c.isdigit() for c in text) / max(len(text), 1)


def digits(prompts, completions, answer, **columns):
    assert all(isinstance(a, int) for a in answer) and "question" in columns
    return [math.fsum([share(text)]) for text in completions]
"""
SIZES = (
    "model='model', prompt_key='question', reward=digits, lr=1e-3, max_new_tokens=16, groups_per_step=8, group_size=4"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scripts are, with their model and rows."""
    path = tmp_path_factory.mktemp("scripts")
    save_chat_model(path / "model")
    save_questions(path / "questions.jsonl")
    return path


@pytest.fixture
def nothing_left(folder: Path) -> Iterator[None]:
    yield
    mark = f"RLSERVE_RUN_DIRECTORY={(folder / 'runs').resolve()}".encode()
    deadline = time.monotonic() + 20
    while left := [p.pid for p in psutil.process_iter() if mark in environment_of(p.pid)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def python(folder: Path, source: str, name: str = "script.py") -> subprocess.CompletedProcess[str]:
    (folder / name).write_text(source)
    command = [sys.executable, name]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=2000, check=False
    )


def test_the_example_of_readme_trains(folder: Path, nothing_left: None) -> None:
    (code,) = re.findall(r"```python\n(import rlserve\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (folder / MODEL).parent.mkdir(exist_ok=True)
    (folder / MODEL).symlink_to(folder / "model")
    (folder / "prompts.jsonl").write_text((folder / "questions.jsonl").read_text().replace("question", "prompt"))
    done = python(folder, code.replace("steps=20", "steps=2"))
    assert done.returncode == 0, done.stdout + done.stderr
    reward, checkpoint = done.stdout.splitlines()[-1].split()
    assert 0 <= float(reward) <= 1 and (folder / checkpoint / "model.safetensors").exists()
    # A share of digits is no accuracy, unless all of the few samples have none.
    assert re.search(r"held-out (mean reward|accuracy) before", done.stdout) and "step 2/2" in done.stdout


def test_a_run_from_a_script_is_measured_sampled_and_resumed(folder: Path, nothing_left: None) -> None:
    source = OWN + (
        "import json\n"
        "rows = [json.loads(line) for line in open('questions.jsonl')]\n"
        f"rlserve.train(data=rows, {SIZES}, steps=2, name='own', problems=8)\n"
        "run = rlserve.Run('runs/own').resume(steps=3, progress=False)\n"
        "found = run.eval(problems=4, progress=False)\n"
        "texts = run.generate(['2+2='], samples=2, progress=False)\n"
        "found = [[row['step'] for row in run.metrics], found['problems'], texts, str(run), len(run.measurements)]\n"
        "print(json.dumps(found))\n"
    )
    done = python(folder, source)
    assert done.returncode == 0, done.stdout + done.stderr
    steps, problems, texts, shown, measured = json.loads(done.stdout.splitlines()[-1])
    assert steps == [1, 2, 3] and problems == 4 and measured >= 2
    assert [text["prompt"] for text in texts] == ["2+2="] * 2 and set(texts[0]) == {"prompt", "completion"}
    assert shown.startswith("<rlserve run 'runs/own': 3 of 3 steps")
    carried = {path.name.split("-")[0] for path in (folder / "runs" / "own" / "inputs").iterdir() if path.is_file()}
    assert carried == {"digits", "train"}


def test_ctrl_c_ends_every_process_and_raises(folder: Path, nothing_left: None) -> None:
    (folder / "long.py").write_text(
        OWN + "if __name__ == '__main__':\n    try:\n"
        f"        rlserve.train(data='questions.jsonl', {SIZES}, steps=10_000, name='long', problems=0)\n"
        "    except KeyboardInterrupt:\n        print('interrupted here')\n"
    )
    with open(folder / "long.out", "w") as out:
        process = subprocess.Popen([sys.executable, "long.py"], cwd=folder, env=ENVIRONMENT, stdout=out, stderr=out)
    metrics, deadline = folder / "runs" / "long" / "metrics.jsonl", time.monotonic() + 900
    while not metrics.exists() or not metrics.read_text().strip():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "long.out").read_text()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    said = (folder / "long.out").read_text()
    assert "interrupted here" in said and "rlserve run --resume runs/long" in said


def test_a_notebook_and_a_thread_can_train(folder: Path, nothing_left: None) -> None:
    source = OWN + (
        "import asyncio, threading\n"
        f"options = dict({SIZES}, data='questions.jsonl', steps=1, problems=0, progress=False)\n"
        "async def cell():\n"
        "    print(rlserve.train(**options, name='cell').summary['steps'])\n"
        "asyncio.run(cell())\n"
        "def work():\n"
        "    print(rlserve.train(**options, name='thread').summary['steps'])\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    done = python(folder, source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["1", "1"]


CONFIG = """
name = "late"
reward = "late.py:late"
steps = 2
evaluate.problems = 0
[model]
path = "model"
max_length = 128
[[environments]]
name = "dataset"
options = { path = "questions.jsonl", prompt_key = "question" }
[rollout]
max_new_tokens = 8
dtype = "float32"
kv_cache_bytes = 67_108_864
[learner]
dtype = "float32"
groups_per_step = 4
"""


def test_a_function_that_fails_in_a_run_ends_it_with_its_line(folder: Path, nothing_left: None) -> None:
    (folder / "late.py").write_text("def late(completions, **columns):\n    return [len(c) / 0 for c in completions]\n")
    (folder / "run.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "rlserve.cli.main", "run", "run.toml", "--no-preflight"]
    run = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False)
    said = run.stdout + run.stderr
    assert run.returncode == 1, said
    assert "late.py:late raised ZeroDivisionError: division by zero (late.py:2)" in said
    assert said.count("Traceback") <= 1
