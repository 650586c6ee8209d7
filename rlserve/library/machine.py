"""Values that fit this machine and the model, where the caller of ``train`` leaves them open."""

from pathlib import Path
from typing import Any

from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.launch.gpus import visible_gpus
from rlserve.launch.preflight.checkpoint import directory_of, positions_of, read_config


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
    config = read_config(directory_of(model) or Path(model))
    return 0 if isinstance(config, str) else positions_of(config) or 0
