"""Values that fit this machine and the model, where the caller of ``train`` leaves them open."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.launch.gpus import visible_gpus
from rlserve.launch.preflight.checkpoint import POSITIONS, directory_of


def fitting(model: str) -> dict[str, Any]:
    """Context, length of completions and precision for a run that trains ``model`` here."""
    positions = _positions(model)
    usual = ModelConfig.model_fields["max_length"].default
    max_length = min(usual, positions) if positions else usual
    values: dict[str, Any] = {
        "model": {"max_length": max_length},
        # Half of the context at most: the other half is for the prompt.
        "rollout": {"max_new_tokens": min(RolloutConfig.model_fields["max_new_tokens"].default, max_length // 2)},
        "learner": {},
    }
    if not visible_gpus():
        # Without a GPU bfloat16 is slower than float32, and less precise.
        values["rollout"]["dtype"] = values["learner"]["dtype"] = "float32"
    return values


def _positions(model: str) -> int:
    """The longest context that the model's own configuration allows; 0 if that is not here to be read."""
    place = directory_of(model)
    file = (place or Path(model)) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    if not isinstance(config, Mapping):
        return 0
    found = [config[name] for name in POSITIONS if isinstance(config.get(name), int)]
    return max(0, *found) if found else 0
