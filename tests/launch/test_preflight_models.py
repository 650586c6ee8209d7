"""Models as a look at them finds them, before anything is loaded."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlserve.config.load import load_run
from rlserve.engines.vllm.options import runs_on_cpu
from rlserve.launch.preflight.checkpoint import directory_of, positions_of
from rlserve.launch.preflight.machine import check_engines
from rlserve.launch.preflight.models import Asked, look_at_model
from tests.support.hugging_face_hub import hub_of
from tests.support.models.paper_model import POSITIONS, write_model

Spoil = Callable[[Path], Any]


def rewrite(**values: Any) -> Spoil:
    def spoil(path: Path) -> None:
        write_model(path, **values)

    return spoil


def lfs(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def adapter(path: Path) -> None:
    (path / "config.json").unlink()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "lab/base"}))


def incomplete(path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


SPOILT: tuple[tuple[str, Spoil, tuple[str, ...]], ...] = (
    ("adapter", adapter, ("is a LoRA adapter of 'lab/base'", "merge it first")),
    ("unknown type", rewrite(model_type="foo9"), ("model_type 'foo9'", "does not know")),
    ("type typo", rewrite(model_type="qwne3"), ("model_type 'qwne3'", "did you mean 'qwen3'?")),
    ("no causal model", rewrite(model_type="t5"), ("model_type 't5'", "no causal language model")),
    ("classifier", rewrite(architectures=["Qwen3ForSequenceClassification"]), ("Qwen3ForSequenceClassification",)),
    ("quantised", rewrite(quantization_config={"quant_method": "gptq"}), ("is quantised (gptq)", "unquantised")),
    ("no type", rewrite(model_type=None), ("names no model_type",)),
    ("small vocabulary", rewrite(vocab_size=4), ("vocab_size", "do not belong together")),
    ("lfs pointer", lfs, ("git lfs pull",)),
    ("cut weights", cut, ("is cut: it has ",)),
    ("empty weights", lambda p: (p / "model.safetensors").write_bytes(b""), ("is broken",)),
    ("junk weights", lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 99), ("is broken",)),
    ("no weights", lambda p: (p / "model.safetensors").unlink(), ("has no weights",)),
    ("a shard lacks", incomplete, ("lacks model-00002-of-00002.safetensors (1 of 2 files",)),
    ("broken config", lambda p: (p / "config.json").write_text("{"), ("config.json' cannot be read",)),
    ("no config", lambda p: (p / "config.json").unlink(), ("has no config.json",)),
    ("no tokenizer", lambda p: [f.unlink() for f in p.glob("tokenizer*")], ("has no tokenizer",)),
    ("broken tokenizer", lambda p: (p / "tokenizer.json").write_text("{}"), ("the tokenizer of",)),
)


@pytest.mark.parametrize(("spoil", "words"), [s[1:] for s in SPOILT], ids=[s[0] for s in SPOILT])
def test_a_checkpoint_that_cannot_be_trained(spoil: Spoil, words: tuple[str, ...], tmp_path: Path) -> None:
    spoil(path := write_model(tmp_path / "model"))
    (found,) = look_at_model(Asked("model.path", str(path), POSITIONS, "model.max_length"))
    assert found.is_fault
    assert all(word in found.message for word in ("model.path: ", *words)), found


def test_a_whole_one_is_fine(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    assert not list(look_at_model(Asked("model.path", str(path), POSITIONS, "model.max_length")))


@pytest.mark.skipif(not runs_on_cpu(), reason="of vLLM's CPU build")
def test_heads_that_the_engine_cannot_compute_are_named_before_it_starts(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", hidden_size=64, num_attention_heads=4)
    asked = Asked("model.path", str(path), POSITIONS, "model.max_length", "vllm")
    (found,) = look_at_model(asked)
    assert found.is_fault and "has heads of size 16, which vLLM's attention on a CPU cannot compute" in found.message
    assert "(it can: 32, 64," in found.message
    write_model(path, hidden_size=64, num_attention_heads=4, head_dim=32)
    assert not list(look_at_model(asked))
    made = load_run(["quickstart"], ["pretrain.architecture.head_dim=16"])
    (found,) = check_engines(made)
    assert found.message.startswith("pretrain.architecture.head_dim: gives heads of size 16")


LOOK = """
from rlserve.launch.preflight.models import Asked, look_at_model
for name in ("lab/tiny", "lab/tinny"):
    print([finding.message for finding in look_at_model(Asked("model.path", name, 64, "model.max_length"))])
"""


def test_a_model_of_the_hub_is_looked_at_there_and_then_in_the_cache(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "lab" / "tiny")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}

    def looked() -> list[str]:
        words = [sys.executable, "-c", LOOK]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=100)
        return done.stdout.splitlines()

    with hub_of(tmp_path) as environment["HF_ENDPOINT"]:
        found, absent = looked()
    assert found == "[]" and "'lab/tinny' is no directory here, and the hub has no such model" in absent
    found, absent = looked()
    assert "'lab/tiny' comes from the cache, for the hub cannot be reached; export HF_HUB_OFFLINE=1" in found
    assert "as a hub name it is neither in the cache nor can the hub be reached" in absent


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 128}}, 128),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 256),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 4096,
                "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096},
            },
            8192,
        ),
        ({"vocab_size": 3}, None),
    ],
)
def test_positions(config: dict[str, Any], positions: int | None) -> None:
    assert positions_of(config) == positions


def test_a_run_means_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (9, 10):
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
    assert directory_of(str(tmp_path)) == tmp_path / "checkpoints" / "step-10"
    write_model(tmp_path / "checkpoints" / "step-9")
    assert directory_of(str(tmp_path)) == tmp_path / "checkpoints" / "step-9", "the newest that is whole"
    assert directory_of("lab/model") is None and directory_of("./model") == Path("model")
