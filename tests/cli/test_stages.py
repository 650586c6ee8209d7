"""Pretraining and fine-tuning from the command line, small."""

from pathlib import Path

import pytest

from rlserve.cli.main import main

CONFIG = """
[pretrain]
tokenizer = { alphabet = "0123456789+=;#" }
architecture = { hidden_size = 32, num_layers = 1, num_heads = 2, num_kv_heads = 1, head_dim = 16, ffn_size = 32 }
stage = { steps = 2, batch_size = 4, check_every = 1, corpus = { environment = "arithmetic" } }
[sft]
stage = { steps = 2, batch_size = 4, check_every = 1, corpus = { environment = "arithmetic" } }
"""


def test_a_model_is_made_and_fine_tuned_and_transformers_loads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(CONFIG)
    assert main(["pretrain", str(config), "--out", str(tmp_path / "a"), "--max-length", "64"]) == 0
    assert main(["sft", str(config), "--model", str(tmp_path / "a"), "--out", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.count("loss") == 4
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "b")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert model.config.vocab_size >= len(tokenizer)
    assert tokenizer.decode(tokenizer.encode("3+8=1;#6"), skip_special_tokens=True) == "3+8=1;#6"


def test_an_existing_directory_and_a_missing_table_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(CONFIG)
    assert main(["pretrain", str(config), "--out", str(tmp_path)]) == 1
    assert "--out" in capsys.readouterr().err
    config.write_text("[sft]\n")
    assert main(["pretrain", str(config), "--out", str(tmp_path / "x")]) == 1
    assert "no [pretrain] table" in capsys.readouterr().err
    assert main(["sft", str(config), "--model", "m", "--out", str(tmp_path / "x")]) == 1
    assert "sft" in capsys.readouterr().err
