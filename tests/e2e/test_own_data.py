"""A user who has a chat model and data of their own, in each form: what they type, and what the model reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from rlserve.cli.main import main
from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.pretrain.tokenizer import train_tokenizer
from tests.support.models.tiny_policies import tiny_model

TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t.function.name }} {% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
ROWS = [{"question": f"{a}+{b}?", "result": a + b} for a in range(6) for b in range(6)]
NUMBERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": NUMBERS}}


def conversation(a: int, b: int) -> list[dict[str, Any]]:
    """A question whose answer a tool has just given."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": a, "b": b}}}
    return [
        {"role": "user", "content": f"{a}+{b}?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": str(a + b)},
    ]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chat model and the same sums as CSV, Parquet, a saved data set and conversations with a tool."""
    folder = tmp_path_factory.mktemp("own")
    characters = "".join(map(chr, range(32, 127))) + "\n"
    tokenizer = train_tokenizer(TokenizerConfig(alphabet=characters, vocab_size=128), [], max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    tiny_model("qwen3", tied=True, vocab_size=128, hidden_size=64, head_dim=32).save_pretrained(folder / "model")
    rows = datasets.Dataset.from_list(ROWS)
    rows.to_csv(str(folder / "sums.csv"))
    rows.to_parquet(str(folder / "sums.parquet"))
    rows.save_to_disk(str(folder / "saved"))
    talk = [{"messages": conversation(a, b), "tools": [ADD], "answer": a + b} for a in range(6) for b in range(6)]
    (folder / "talk.jsonl").write_text("\n".join(map(json.dumps, talk)))
    datasets.Dataset.from_list(talk).to_parquet(str(folder / "talk.parquet"))
    return folder


def asked(question: str) -> str:
    return f"<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        *((name, asked("1+2?")) for name in ("sums.csv", "sums.parquet", "saved")),
        *(
            (
                name,
                "<|im_start|>tools\nadd <|im_end|>\n<|im_start|>user\n1+2?<|im_end|>\n<|im_start|>assistant\n"
                '<call>{"name": "add", "arguments": {"a": 1, "b": 2}}</call><|im_end|>\n'
                "<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n",
            )
            for name in ("talk.jsonl", "talk.parquet")
        ),
    ],
)
def test_what_a_model_will_read_is_shown_before_any_run(
    data: str, prompt: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    keys = ["messages_key=messages"] if data.startswith("talk") else ["prompt_key=question", "answer_key=result"]
    options = [f"path={data}", *keys, *(["system=Add."] if not data.startswith("talk") else [])]
    words = [word for option in options for word in ("--option", option)]
    assert main(["env", "sample", "dataset", *words, "--first", "8", "-n", "1", "--model", "model", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["prompt"] == prompt
    assert (shown["verifier"], json.loads(shown["payload"])) == ("math", {"answer": "3"})
    assert main(["env", "sample", "dataset", *words, "-n", "1"]) == 0
    printed = capsys.readouterr().out
    assert ("tools: add" in printed and '"name": "add"' in printed) == data.startswith("talk")


REWARD = """
def silent(prompts, completions, **columns):
    \"\"\"Half for a prompt without thoughts, as the configuration asks, half for the columns of the row.\"\"\"
    given = columns.get("result") or columns["answer"]
    return [0.5 * p.endswith("<think></think>") + 0.5 * (int(a) >= 0) for p, a in zip(prompts, given, strict=True)]
"""
CONFIG = """
name = "own"
reward = "my_reward.py:silent"
directory = "{runs}"
steps = 50

[model]
path = "{own}/model"
max_length = 256
chat_template_kwargs = {{ enable_thinking = false }}

[[environments]]
name = "sums"
plugin = "dataset"

[environments.options]
path = "{own}/sums.csv"
prompt_key = "question"
answer_key = "result"
system = "Add."
test_fraction = 0.2

[[environments]]
name = "talk"
plugin = "dataset"
options = {{ path = "{own}/talk.parquet", messages_key = "messages", test_fraction = 0.2 }}

[rollout]
group_size = 2
max_groups_in_flight = 8
max_new_tokens = 8
dtype = "float32"

[learner]
dtype = "float32"
groups_per_step = 4
tokens_per_micro_batch = 1024

[algorithm]
type = "grpo"
zero_variance = "keep"  # the reward is of the prompt alone

[evaluate]
problems = 4
every_steps = 1
keep_best = "reward_mean"  # 1 from the start on: nothing can be better
patience = 2
"""


@pytest.mark.whole
def test_a_chat_model_trains_on_a_table_and_on_conversations_with_tools(
    own: Path, new_run: Callable[[str], Any], tmp_path: Path
) -> None:
    run = new_run("own")
    (tmp_path / "my_reward.py").write_text(REWARD)
    (tmp_path / "own.toml").write_text(CONFIG.format(own=own, runs=run.root.parent))
    run.start(str(tmp_path / "own.toml"))
    assert run.wait(500) == 0, run.tail()
    assert [row["step"] for row in run.metrics()] == [1, 2]
    said = run.output.read_text()
    assert "training ends at step 2 of 50: evaluate.reward_mean did not rise in 2 evaluations" in said
    assert "best reward_mean 1.000 at step 0 (the start model)" in said
    assert run.summary()["best"]["step"] == 0 and run.events("run_ended")[-1]["how"] == "finished"
    assert [row["reward/mean"] for row in run.metrics()] == [1.0, 1.0]
    samples = [json.loads(line) for line in (run.root / "samples.jsonl").read_text().splitlines()]
    heads = {sample["prompt"].splitlines()[0] for sample in samples}
    assert "system: Add." in heads, "of the table"
    assert any(head.startswith("user: ") for head in heads), "of the conversations"
    assert "no_verdict" not in run.summary()["groups"]["dropped"]
