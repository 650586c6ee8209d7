"""``rlserve export``: whole models and adapters as other programs read them, and what it refuses."""

from pathlib import Path

import pytest
import torch

from rlserve.cli.main import main
from rlserve.config.tables.learner import LoraConfig
from rlserve.models.adapter_files import write_adapter
from rlserve.models.adapters import adapter_tensors, add_adapter, target_names
from tests.support.models.learner_work import save_policy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, as checkpoints hold it, of a model in a directory beside it."""
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp("checkpoint")
    base, lora = save_policy(place / "base"), LoraConfig(rank=4, alpha=8)
    model = AutoModelForCausalLM.from_pretrained(base)
    add_adapter(model, lora)
    tensors = {name: torch.randn_like(p) * 0.1 for name, p in adapter_tensors(model)}
    companions = {name: (base / name).read_bytes() for name in ("config.json", "tokenizer.json")}
    (place / "adapter").mkdir()
    write_adapter(place / "adapter", tensors.items(), companions, lora, base=str(base), targets=target_names(model))
    return place / "adapter"


def test_merged_and_adapter_alone_are_the_same_policy_oracle(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    assert main(["export", str(checkpoint), str(tmp_path / "whole")]) == 0
    assert str(tmp_path / "whole") in capsys.readouterr().out
    assert main(["export", str(checkpoint), str(tmp_path / "adapter"), "--adapter"]) == 0
    ids = torch.arange(20)[None]
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()(ids).logits
        by_peft = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
        by_transformers = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
        torch.testing.assert_close(by_peft(ids).logits, whole, atol=3e-5, rtol=0)
        torch.testing.assert_close(by_transformers(ids).logits, whole, atol=3e-5, rtol=0)
    names = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert {file.name for file in (tmp_path / "whole").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_a_whole_model_is_copied(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = checkpoint.parent / "base"
    assert main(["export", str(base), str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert main(["export", str(base), str(tmp_path / "other"), "--adapter"]) == 1
    assert "--adapter: " in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_what_cannot_be_exported_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(checkpoint), str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(checkpoint), str(tmp_path / "a" / "b")]) == 1
    assert "make it first" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 1
    assert "there is no directory" in capsys.readouterr().err
