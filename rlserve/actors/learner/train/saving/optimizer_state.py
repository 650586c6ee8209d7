"""The parts of AdamW's state that a rank holds, as stretches of flattened float32 tensors by parameter name.

Names are ``<kind>/<parameter>`` with the kinds below. A stretch says where in the parameter it begins, so that what N
ranks wrote in one ZeRO stage can be read by M ranks in another.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.actors.learner.train.gather import full_numel, host_copy

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
"""Float32 weights, where the model's own are less precise."""
Read = Callable[[str, int, int], Tensor]
"""Reads elements from ``start`` to ``stop`` of the tensor of a name."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A stretch of one tensor that this rank updates."""

    name: str
    start: int
    """Place of its first element in the flattened tensor."""
    values: Tensor
    """``[n]`` float32; may be the optimizer's own memory."""
    write: Callable[[Tensor], object]
    """Sets the stretch."""


def collect(model: nn.Module, optimizer: Any, *, rank: int, ranks: int) -> Iterator[tuple[str, Tensor]]:
    """Copies in host memory of what this rank is to write, as ``(<name>@<start>, [n])``; together the ranks have all.

    No collective.
    """
    if not applied_steps(optimizer):
        return
    is_replicated = optimizer is _base(optimizer)
    for part in parts(model, optimizer):
        size = len(part.values)
        # Every rank has a replicated tensor whole: each writes its share.
        own = slice(size * rank // ranks, size * (rank + 1) // ranks) if is_replicated else slice(0, size)
        if own.stop > own.start:
            yield f"{part.name}@{part.start + own.start}", host_copy(part.values[own], torch.float32)


@torch.no_grad()
def restore(model: nn.Module, optimizer: Any, steps: int, read: Read) -> None:
    """Restore this rank's parts, after ``steps`` updates; the optimizer must have its state tensors already."""
    for part in parts(model, optimizer):
        part.write(read(part.name, part.start, part.start + len(part.values)))
    for state in _base(optimizer).state.values():
        state["step"].fill_(steps)  # the bias correction of Adam depends on it


def applied_steps(optimizer: Any) -> int:
    """Updates that the optimizer applied since the start; skipped steps do not count."""
    steps = [int(state["step"]) for state in _base(optimizer).state.values() if "step" in state]
    return max(steps, default=0)


def parts(model: nn.Module, optimizer: Any) -> Iterator[Part]:
    """What this rank holds of the state; after the first update."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for kind in _kinds(parameter):
                if (part := _part(optimizer, parameter, kind, f"{kind}/{name}")) is not None:
                    yield part


def _kinds(parameter: nn.Parameter) -> tuple[str, ...]:
    # float32 weights are their own master copy, and are in the model already
    return MOMENTS if parameter.dtype == torch.float32 else (MASTER, *MOMENTS)


def _base(optimizer: Any) -> Any:
    """The AdamW inside ZeRO's optimizer; stage 0 has no other."""
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def _part(optimizer: Any, parameter: Any, kind: str, name: str) -> Part | None:
    if optimizer is _base(optimizer):
        values = optimizer.state[parameter][kind].view(-1)
        return Part(name, 0, values, values.copy_)
    if hasattr(parameter, "ds_id"):
        return _partition(parameter, kind, name)
    # DeepSpeed's public functions for stages 1 and 2 only gather whole tensors. None: other ranks hold all of it.
    held = parameter._hp_mapping
    if held is None:
        return None
    values = held.get_hp_fragment(None if kind == MASTER else kind)
    return Part(name, held.lp_fragment_address.start, values, values.copy_)


def _partition(parameter: Any, kind: str, name: str) -> Part | None:
    """ZeRO-3 flattens a parameter, pads it with zeros to a multiple of the ranks, and gives each rank one part."""
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_get_local_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    is_master = kind == MASTER
    padded = safe_get_local_fp32_param(parameter) if is_master else safe_get_local_optimizer_state(parameter, kind)
    start = torch.distributed.get_rank(parameter.ds_process_group) * len(padded)
    size = min(len(padded), full_numel(parameter) - start)
    if size <= 0:
        return None

    def write(values: Tensor) -> None:
        whole = torch.zeros_like(padded)
        whole[:size] = values
        if is_master:
            safe_set_local_fp32_param(parameter, whole)
        else:
            safe_set_local_optimizer_state(parameter, whole, kind)

    return Part(name, start, padded[:size], write)
