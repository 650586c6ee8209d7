"""``rlserve bench journey``: from a file with a reward function to the first optimizer step, against TRL's GRPOTrainer.

Both sides are one script with the same function, model, rows and batch, started from nothing. The clock runs from the
command until the script's console shows the first step: imports, checks, engine, held-out measurement and sampling
included. Runs alternate.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rlserve.bench.tiny_model import save_tiny_model
from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.errors import InvalidRequest, RlserveError

TARGET_SECONDS, TARGET_LINES = 45.0, 12
"""What a first try may take on two cores without a GPU."""
RUN_SECONDS = 600.0
"""Limit of one script. Any value will do that a working one does not reach."""
QUESTIONS = [f"What are {a} apples and {b} apples?" for a in range(40) for b in range(10)]
REWARD = """def digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
"""
SCRIPTS = {
    "rlserve": f"""import rlserve

{REWARD}
rlserve.train(model="model", data="questions.jsonl", prompt_key="question", reward=digits, lr=1e-5, steps=2,
              max_new_tokens=32)
""",
    # The same batch: 32 prompts, 8 completions each.
    "trl": f"""from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

{REWARD}
rows = load_dataset("json", data_files="questions.jsonl", split="train").rename_column("question", "prompt")
args = GRPOConfig(output_dir="out", max_steps=2, logging_steps=1, learning_rate=1e-5, max_completion_length=32,
                  num_generations=8, per_device_train_batch_size=64, gradient_accumulation_steps=4, use_cpu=True,
                  bf16=False, report_to=[], save_strategy="no", disable_tqdm=True)
GRPOTrainer(model="model", reward_funcs=digits, args=args, train_dataset=rows).train()
""",
}
FIRST_STEP = {"rlserve": re.compile(r"step 1/2"), "trl": re.compile(r"'loss'")}
"""What the console shows once the first step is made."""


def measure(
    *, out: str = "runs/bench-journey", seeds: int = 3, only: Sequence[str] = (), keep: bool = False
) -> dict[str, Any]:
    """Seconds to the first step, one for each repetition, and lines of each script; ``keep`` keeps the model."""
    for name in only:
        if name not in SCRIPTS:
            raise InvalidRequest(f"--only: is {name!r}; give one of {', '.join(SCRIPTS)}")
    folder = Path(out).absolute()
    if not (keep and folder.exists()):
        _lay_out(folder)
    chosen = list(only) or list(SCRIPTS)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for repetition in range(seeds):
        # Each repetition begins with another side, so that the same one does not always profit from warm caches.
        for name in chosen if repetition % 2 == 0 else chosen[::-1]:
            seconds[name].append(round(_seconds(folder, name), 1))
            print(f"  {name}: first step after {seconds[name][-1]} s", file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        name: {"seconds": found, "lines": len(SCRIPTS[name].strip().splitlines())} for name, found in seconds.items()
    }
    if len(chosen) == len(SCRIPTS):
        result["ratio_of_medians"] = median(seconds["rlserve"]) / median(seconds["trl"])
    return {**result, "target": f"rlserve at most {TARGET_SECONDS:g} s and {TARGET_LINES} lines"}


def _lay_out(folder: Path) -> None:
    """The model, the rows and the scripts, as a user has them."""
    from rlserve.pretrain.tokenizer import train_tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=320), QUESTIONS, max_length=512)
    save_tiny_model(folder / "model", vocabulary=len(tokenizer))
    tokenizer.save_pretrained(str(folder / "model"))
    rows = "".join(json.dumps({"question": question}) + "\n" for question in QUESTIONS)
    (folder / "questions.jsonl").write_text(rows, encoding="utf-8")
    for name, script in SCRIPTS.items():
        (folder / f"{name}_script.py").write_text(script, encoding="utf-8")


def _seconds(folder: Path, name: str) -> float:
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-u", f"{name}_script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # A script that hangs shows nothing, and a read has no limit of its own.
    limit = threading.Timer(RUN_SECONDS, process.kill)
    limit.start()
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if FIRST_STEP[name].search(line):
                took = time.monotonic() - started
                process.stdout.read()  # to the end, so that the next one has the machine for itself
                return took
    finally:
        limit.cancel()
        process.wait()
    raise RlserveError(f"bench: {name} made no step:\n{''.join(said)[-3000:]}")
