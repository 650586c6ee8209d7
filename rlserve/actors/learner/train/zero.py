"""What DeepSpeed makes of a model: the engine that trains it, and in stage 3 the partitions of any model.

In stage 3 no rank ever holds a whole model: transformers partitions each module as it is made (``zero.Init``), and
loads the files, which every rank only maps, parameter by parameter.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from rlserve.actors.learner.train.deepspeed_setup import create_optimizer, deepspeed_config
from rlserve.actors.learner.train.gather import full_numel
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import ConfigError
from rlserve.memory.formulas import BUCKET_ELEMENTS

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def partitioned(config: LearnerConfig, device: torch.device) -> Iterator[None]:
    """Inside, a model that transformers loads is partitioned over the ranks, if the stage is 3; all ranks load it.

    The process group must exist.
    """
    # peft makes adapters beside whole weights.
    if config.zero_stage != 3 or config.lora is not None:
        yield
        return
    from transformers.integrations import deepspeed

    settings = _Stage3(deepspeed_config(config, num_parameters=BUCKET_ELEMENTS, device=device))
    deepspeed.set_hf_deepspeed_config(settings)  # keeps a weak reference alone
    try:
        with _blaming_keys():
            yield
    finally:
        # It holds for the whole process, where other models are whole.
        deepspeed.unset_hf_deepspeed_config()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Stage3:
    """What transformers asks of a DeepSpeed configuration; its own class would need the library accelerate."""

    config: dict[str, Any]

    def is_zero3(self) -> bool:
        return True


def training_engine(model: nn.Module, config: LearnerConfig, device: torch.device) -> Any:
    """DeepSpeed's engine around ``model`` and an optimizer of its trained parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(full_numel(p) for p in parameters)
    settings = deepspeed_config(config, num_parameters=size, device=device)
    return _initialize(model, settings, optimizer=create_optimizer(parameters, config))


def frozen_engine(model: nn.Module, config: LearnerConfig, device: torch.device) -> Any:
    """DeepSpeed's engine around a partitioned ``model`` that is not trained: it gathers each module while it runs."""
    size = sum(full_numel(p) for p in model.parameters())
    settings = deepspeed_config(config, num_parameters=size, device=device)
    settings["zero_optimization"].pop("offload_optimizer", None)
    return _initialize(model, settings)


def _initialize(model: nn.Module, settings: dict[str, Any], **given: Any) -> Any:
    # Not at the top: there it would come before ``import_deepspeed`` has prepared the process.
    import deepspeed

    with contextlib.redirect_stdout(io.StringIO()) as printed, _blaming_keys():  # DeepSpeed prints its memory use
        # init_process_group made the group.
        engine, *_ = deepspeed.initialize(model=model, config=settings, dist_init_required=False, **given)
    logger.debug("deepspeed.initialize: %s", printed.getvalue())
    return engine


@contextlib.contextmanager
def _blaming_keys() -> Iterator[None]:
    """DeepSpeed checks the keys of its inner tables itself."""
    try:
        yield
    except ValidationError as error:
        (first, *_), title = error.errors(), error.title
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"learner.deepspeed: {where} of DeepSpeed's {title}: {first['msg'].lower()}") from error
