"""Predicted memory against that of real processes on a CPU, libraries included: within 15%."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlserve.memory.formulas import LEARNER_LIBRARIES, WORKER_LIBRARIES
from tests.support.processes.children import ROOT

CLOSE = 0.15
SIZES: dict[str, dict[str, Any]] = {
    "23M": {"hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 1536, "vocab_size": 8192},
    "90M": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 2304, "vocab_size": 16_384},
    "untied": {
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "intermediate_size": 1536,
        "vocab_size": 32_768,
        "tie_word_embeddings": False,
    },
}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 1024}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("models")

    def model(size: str) -> Path:
        path = root / size
        if not path.exists():
            with torch.random.fork_rng():
                Qwen3ForCausalLM(Qwen3Config(**{"tie_word_embeddings": True, **HEADS, **SIZES[size]})).save_pretrained(
                    path
                )
        return path

    return model


def measured(module: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.support.memory.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    numbers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    model, *options = arguments
    sizes = (f"{name} {numbers[name] / 1e6:.0f}" for name in ("planned", "measured"))
    print(module, Path(str(model)).name, *options, *sizes)
    return numbers


WHOLE = pytest.mark.whole


@pytest.mark.parametrize(
    ("size", "learner"),
    [
        ("23M", {"dtype": "float32"}),
        pytest.param("90M", {"dtype": "float32"}, marks=WHOLE),
        pytest.param("untied", {"dtype": "float32"}, marks=WHOLE),
        pytest.param("untied", {"dtype": "float32", "zero_stage": 2}, marks=WHOLE),
        pytest.param("90M", {"dtype": "float32", "gradient_checkpointing": True}, marks=WHOLE),
        pytest.param("23M", {"dtype": "bfloat16"}, marks=WHOLE),
        pytest.param("95M", {"dtype": "float32", "lora": {}}, marks=WHOLE),
    ],
)
def test_a_learner_holds_what_was_planned(models: Any, size: str, learner: dict[str, Any]) -> None:
    settings = json.dumps({"tokens_per_micro_batch": 512, **learner})
    numbers = measured("learner", models(size), settings, 256)
    assert numbers["planned"] > 1.5 * LEARNER_LIBRARIES  # else the test would show the libraries alone
    assert numbers["planned"] == pytest.approx(numbers["measured"], rel=CLOSE), numbers


@WHOLE
@pytest.mark.parametrize(("size", "cache_mib"), [("23M", 256), ("90M", 64), ("untied", 128)])
def test_an_engine_holds_what_was_planned(models: Any, size: str, cache_mib: int) -> None:
    numbers = measured("engine", models(size), 512, cache_mib * 2**20)
    assert numbers["planned"] > 1.3 * WORKER_LIBRARIES
    assert "loads the" in "".join(numbers["phases"])  # said while the engine started
    assert numbers["planned"] == pytest.approx(numbers["measured"], rel=CLOSE), numbers
