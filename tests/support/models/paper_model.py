"""A checkpoint directory that is right in all that a look at its files can see, and as small as can be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support.models.characters import tokenizer

POSITIONS = 64
CONFIG: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 64}


def write_model(directory: Path, **config: Any) -> Path:
    """Write it; ``config`` replaces keys of its ``config.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(directory)
    values = {**CONFIG, "max_position_embeddings": POSITIONS, **config}
    (directory / "config.json").write_text(json.dumps(values))
    save_file({"model.embed_tokens.weight": np.zeros((64, 8), dtype=np.float32)}, directory / "model.safetensors")
    return directory
