"""A whole run on environments of other libraries: Gymnasium, TextArena and an MCP server's tools in one mixture.

The model was taught to call the server's tool in the notation of Hermes, and its template names no family: only
``model.tool_parser`` can make calls of what it writes.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.pretrain.tokenizer import train_tokenizer
from tests.support.models.tiny_policies import tiny_model

pytestmark = [pytest.mark.whole, pytest.mark.slow, pytest.mark.timeout(900)]

SERVER = Path(__file__).parents[1] / "support" / "processes" / "mcp_tools.py"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RUN = """
steps = 2
[model]
path = "{model}"
max_length = 2048
tool_parser = "hermes"
[[environments]]
name = "lake"
plugin = "gymnasium"
options = {{ id = "FrozenLake-v1", actions = ["left", "down", "right", "up"], turns = 3 }}
[[environments]]
name = "number"
plugin = "textarena"
options = {{ game = "GuessTheNumber-v0", turns = 2 }}
[[environments]]
name = "sums"
plugin = "mcp"
weight = 2.0
[environments.options]
data = {{ path = "{root}/tasks.jsonl", test_fraction = 0.3 }}
command = ["{python}", "{server}"]
reward_tool = "score"
[rollout]
group_size = 4
max_new_tokens = 128
dtype = "float32"
[episodes]
max_turn_tokens = 64
[algorithm]
type = "grpo"
zero_variance = "keep"
[learner]
dtype = "float32"
groups_per_step = 8
max_lag = 0
tokens_per_micro_batch = 8192
[evaluate]
problems = 8
"""
SUMS = [(a, a + 1) for a in range(1, 10)]
"""No sum stands in its own question, nor in the call that asks for it."""


def test_environments_of_other_libraries_train_together(new_run: Callable[[str], Any], tmp_path: Path) -> None:
    _save_caller(tmp_path / "model")
    rows = [{"prompt": f"{a} + {b}?", "answer": str(a + b)} for a, b in SUMS]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = Path(shutil.copy(SERVER, tmp_path))
    config = tmp_path / "run.toml"
    config.write_text(RUN.format(model=tmp_path / "model", root=tmp_path, server=server, python=sys.executable))
    run = new_run("adapters")
    run.start(str(config), "--set", f"directory={run.root.parent}", "--set", "name=adapters")
    assert run.wait(800) == 0, run.tail()
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2]
    assert {"reward/lake/mean", "reward/number/mean", "reward/sums/mean"} <= {key for row in rows for key in row}
    assert all(row["reward/no_verdict_share"] == 0 for row in rows)
    # A batch whose groups have equal rewards has none.
    mismatch = [row["algorithm/mismatch_kl"] for row in rows if "algorithm/mismatch_kl" in row]
    assert mismatch and max(mismatch) < 1e-5
    # A call that stays text is a wrong answer, for which the reward tool gives 0.25: more comes of the call's result.
    assert max(row["reward/sums/mean"] for row in rows if "reward/sums/mean" in row) > 0.4


def _save_caller(path: Path) -> None:
    """A model that calls ``add`` for the sums and repeats the result."""
    talks = [_talk(a, b) for a, b in SUMS]
    texts = ["SFFF FHFH left down right up", "You have to guess the number between 1 and 20", *map("".join, talks)]
    tokenizer = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=320), texts, max_length=2048)
    tokenizer.chat_template = TEMPLATE
    shape = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 2048}
    model = tiny_model("qwen3", tied=True, hidden_size=128, head_dim=32, intermediate_size=256, **shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = [_tokens(tokenizer, talk) for talk in talks]
    ids, labels = (pad_sequence([row[n] for row in rows], True, padding_value=-100) for n in (0, 1))
    for _ in range(600):
        loss = model(input_ids=ids.clamp(min=0), labels=labels).loss
        if loss < 0.01:  # two of three texts come out whole, so that groups differ
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.02
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def _talk(a: int, b: int) -> list[str]:
    """An episode as the template writes it: by turns what the policy reads, and what it should write."""
    call = "<tool_call>" + json.dumps({"name": "add", "arguments": {"a": a, "b": b}}) + "</tool_call>"
    return [f"<user>{a} + {b}?\n<assistant>", call, f"\n<tool>{a + b}\n<assistant>", str(a + b)]


def _tokens(tokenizer: Any, talk: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, each turn encoded by itself as in an episode, and labels of the policy's turns alone."""
    ids: list[int] = []
    labels: list[int] = []
    for number, text in enumerate(talk):
        turn = tokenizer.encode(text, add_special_tokens=False)
        is_written = number % 2 == 1
        turn += [tokenizer.eos_token_id] if is_written else []
        ids += turn
        labels += turn if is_written else [-100] * len(turn)
    return torch.tensor(ids), torch.tensor(labels)
