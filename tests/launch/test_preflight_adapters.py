"""``[learner.lora]`` against checkpoints, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlserve.config.tables.learner import LoraConfig
from rlserve.launch.preflight.models import Asked, look_at_model
from tests.support.models.paper_model import POSITIONS, write_model


def found_in(path: Path, lora: LoraConfig | None) -> list[str]:
    return [f.message for f in look_at_model(Asked("model.path", str(path), POSITIONS, "model.max_length", lora=lora))]


def base_model(path: Path) -> Path:
    write_model(path)
    layer = "model.layers.0.self_attn"
    weights = {f"{layer}.{name}.weight": np.zeros((4, 4), np.float32) for name in ("q_proj", "v_proj")}
    save_file({**weights, f"{layer}.q_norm.weight": np.zeros(4, np.float32)}, path / "model.safetensors")
    return path


def adapter_of(path: Path, base: Path, **changes: Any) -> Path:
    write_model(path)
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    settings = {"base_model_name_or_path": str(base), "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(settings | changes))
    return path


@pytest.mark.parametrize(
    ("name", "said"), [("q_prj", "did you mean 'q_proj'?"), ("q_norm", "(known: q_proj, v_proj)"), ("", "known")]
)
def test_a_layer_that_the_model_does_not_have(tmp_path: Path, name: str, said: str) -> None:
    base = base_model(tmp_path / "base")
    (found,) = found_in(base, LoraConfig(target_modules=("v_proj", name)))
    assert found.startswith(f"learner.lora.target_modules: {name!r} is no layer of") and said in found
    assert not found_in(base, LoraConfig(target_modules=("q_proj", "v_proj")))
    assert not found_in(base, LoraConfig())


def test_an_adapter_is_a_start_for_the_same_adapters_alone(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base")
    adapter = adapter_of(tmp_path / "adapter", base)
    assert not found_in(adapter, LoraConfig(target_modules=("q_proj",)))
    (found,) = found_in(adapter, None)
    assert f"is a LoRA adapter of {str(base)!r}" in found and "rlserve export" in found
    (found,) = found_in(adapter, LoraConfig(rank=8))
    assert found.startswith("learner.lora.rank: is 8, but") and "has 16" in found
    (base / "config.json").unlink()
    (found,) = found_in(adapter, LoraConfig())
    assert found.startswith("model.path (base of the adapter): ") and "config.json" in found
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(Exception, match=r"adapter_config.json: cannot be read \(KeyError"):
        found_in(adapter, LoraConfig())
