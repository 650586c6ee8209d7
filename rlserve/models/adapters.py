"""Low-rank adapters (LoRA) in a model: peft puts them in, only they are trained.

A layer with weight ``W`` (``[out, in]``) computes ``x W' + (alpha / rank) x A' B'``, with A ``[rank, in]`` random and B
``[out, rank]`` zero at the start. Tensors have the names of peft's own files, so that peft and vLLM read them as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.config.tables.learner import LoraConfig
from rlserve.errors import ConfigError
from rlserve.models.adapter_files import PREFIX, read_tensors

NAME = "default"
"""Of the adapter inside of peft; its files do not mention it."""


def add_adapter(model: nn.Module, config: LoraConfig) -> None:
    """Put adapters into a causal LM and freeze everything else. Raises ConfigError for modules that it does not have.

    A is drawn from torch's random state.
    """
    import peft

    # A list: peft takes any other text for a pattern.
    asked = config.target_modules if config.target_modules == "all-linear" else list(config.target_modules)
    settings: Any = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=asked, bias="none", task_type="CAUSAL_LM"
    )
    try:
        peft.inject_adapter_in_model(settings, model, adapter_name=NAME)
    except ValueError as error:  # no layer of these names, or one of another kind than a matrix product
        raise ConfigError(f"learner.lora.target_modules: {str(error).splitlines()[0]}") from error
    _check_layers(model)


def adapter_tensors(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """A and B of each layer by the names of peft's files; empty for a model without adapters."""
    marks = (f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight")
    named = ((name, parameter) for name, parameter in model.named_parameters() if name.endswith(marks))
    return [(PREFIX + name.replace(f".{NAME}.", "."), parameter) for name, parameter in named]


def target_names(model: nn.Module) -> list[str]:
    """The last part of the names of all layers that have an adapter."""
    return sorted({name.split(".")[-3] for name, _ in adapter_tensors(model)})


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Inside, the model is its base."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def load_adapter(model: nn.Module, path: str) -> None:
    """Read the adapters' weights from a directory of peft's form. Raises ConfigError when they are of another shape."""
    found = read_tensors(path)
    for name, parameter in adapter_tensors(model):
        given: Tensor | None = found.pop(name, None)
        if given is None or given.shape != parameter.shape:
            what = "nothing" if given is None else f"{list(given.shape)}"
            raise ConfigError(
                f"learner.lora: the adapter {path!r} has {what} for {name!r}, where {list(parameter.shape)} is trained;"
                " give the rank and target_modules with which it was trained"
            )
        parameter.copy_(given)
    if found:
        raise ConfigError(
            f"learner.lora.target_modules: the adapter {path!r} also has {next(iter(found))!r}, which would be lost; "
            "give those with which it was trained"
        )


def _check_layers(model: Any) -> None:
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and (id(module) in ends or not isinstance(module.base_layer, nn.Linear)):
            raise ConfigError(
                f"learner.lora.target_modules: {name!r} is a {type(module.base_layer).__name__} that cannot be merged "
                "into published weights; name matrices between the embeddings, such as q_proj"
            )
