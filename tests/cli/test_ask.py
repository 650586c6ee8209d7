"""``rlserve chat`` and ``rlserve serve openai``: what is said and refused; answers are in tests/e2e."""

import io
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlserve.cli.main import main
from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.pretrain.tokenizer import train_tokenizer
from rlserve.tokens.tokenizer import encode_text
from tests.support.models.characters import ALPHABET

TEMPLATE = (
    "{% for m in messages %}{{ {'system': '<', 'user': '#', 'assistant': '>'}[m.role] }}{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
CONTEXT = 64


def tokenizer() -> Any:
    return train_tokenizer(TokenizerConfig(type="characters", alphabet=ALPHABET), [], max_length=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers nonsense, but always the same."""
    place = tmp_path_factory.mktemp("model")
    letters = tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}
    config = Qwen3Config(vocab_size=len(letters), max_position_embeddings=CONTEXT, **sizes, **heads)
    Qwen3ForCausalLM(config).save_pretrained(place)
    letters.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def chat_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chat")
    Qwen3ForCausalLM.from_pretrained(model).save_pretrained(place)
    letters = tokenizer()
    letters.chat_template = TEMPLATE
    letters.save_pretrained(place)
    return place


def greedy(place: Path, text: str, *, special: bool = False) -> str:
    """What transformers makes of a prompt by itself."""
    letters = tokenizer()
    ids = torch.tensor([encode_text(letters, text) if special else letters.encode(text, add_special_tokens=False)])
    policy = Qwen3ForCausalLM.from_pretrained(place)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": letters.eos_token_id}
    out = policy.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    return str(letters.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def ask(capsys: pytest.CaptureFixture[str], place: Path, *arguments: str) -> str:
    assert main(["chat", str(place), "--temperature", "0", "--max-new-tokens", "8", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_one_question_without_a_template_is_continued_as_it_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, model, "--say", "1+2=") == greedy(model, "1+2=", special=True).strip()


def test_standard_input_is_one_question(
    chat_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("1+2=\n"))
    assert ask(capsys, chat_model, "--system", "3") == greedy(chat_model, "<3;#1+2=;>").strip()


def test_a_conversation_is_kept_until_another_begins(
    chat_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    lines = iter(["1", "2", "", "/new", "1", "3" * CONTEXT, "/quit", "never"])
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert main(["chat", str(chat_model), "--temperature", "0", "--max-new-tokens", "8"]) == 0
    said = capsys.readouterr()
    first = greedy(chat_model, "#1;>")
    second = greedy(chat_model, f"#1;>{first};#2;>")
    assert said.out.splitlines() == [text.strip() for text in (first, second, first)]
    assert "there is room for 56" in said.err and "/new begins another conversation" in said.err
    assert next(lines) == "never"


def test_a_port_that_is_taken_is_named_at_once(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "rlserve.cli.main", "serve", "openai", str(model), "--port", port]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and f"--port: 127.0.0.1:{port} cannot be bound" in done.stderr
    assert "Traceback" not in done.stderr and time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("chat", "nowhere"), "model: there is no directory 'nowhere'"),
        (("chat", ".", "--temperature", "-1"), "--temperature: is -1"),
        (("chat", ".", "--max-new-tokens", "0"), "--max-new-tokens: is 0"),
    ],
)
def test_a_mistake_is_named(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert words in capsys.readouterr().err
