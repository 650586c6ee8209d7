"""Faster decoder layers: compiled by torch, or with Liger's kernels.

Norms, rotary embedding and activation of a transformers model are a dozen passes over memory each, which take more of a
GPU's time than the matrix products. Fused, each is one.
"""

import importlib.util
import logging
from typing import Any

import torch
from torch import nn

from rlserve.errors import ConfigError

logger = logging.getLogger(__name__)

LIGER = "liger"
SHAPES = 64
"""Compiled variants of a layer before torch gives up and runs it as it is: rows of one sequence, packed rows, with and
without gradient, and layers of several kinds are one each."""


def compile_layers(model: nn.Module) -> int:
    """Compile each decoder layer, for any number of tokens; how many there are.

    Each by itself: the layers are alike, so one compilation serves all, and what lies between them (checkpointing, the
    output head) stays as it is.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, SHAPES)
    layers: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        # The forward method and not the module: hooks, and recomputation in the backward pass, stay outside.
        layer.forward = torch.compile(layer.forward, dynamic=True)
    if not layers:
        logger.warning("learner.compile: this model has no decoder layers that transformers can name; it runs as it is")
    return len(layers)


def apply_kernels(model: nn.Module, name: str) -> None:
    """Put the kernels of a library into the model. Raises ConfigError where it is missing."""
    if importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError(
            f"learner.kernels: is {name!r}, but liger-kernel is not installed; pip install 'rlserve[liger]'"
        )
    from transformers.integrations.liger import apply_liger_kernel

    # Its losses would be of whole logits again, or of its own head: ours is fused already.
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    logger.info("kernels of %s are in use", name)
