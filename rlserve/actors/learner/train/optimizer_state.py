"""AdamW's state as whole float32 tensors by parameter name.

This form depends on neither ZeRO stage nor number of ranks, so a run may resume under others. Names are
``<kind>/<parameter>`` with the kinds below. All access goes through DeepSpeed's documented functions.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.actors.learner.train.gather import full_numel

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
"""Float32 weights, where the model's own are less precise."""


def collect(model: nn.Module, optimizer: Any, *, is_receiver: bool) -> Iterator[tuple[str, Tensor]]:
    """Copies in host memory; a collective that all ranks exhaust, only the receiver gets tensors."""
    if not applied_steps(optimizer):
        return
    for name, parameter in _trained(model):
        for kind in _kinds(parameter):
            whole = _read(optimizer, parameter, kind)
            if is_receiver:
                # copy: at stage 0 on a CPU it is the optimizer's own tensor, which the next step overwrites.
                yield f"{kind}/{name}", whole.detach().to("cpu", copy=True).contiguous()


def restore(model: nn.Module, optimizer: Any, steps: int, read: Callable[[str], Tensor]) -> None:
    """Restore what ``collect`` yielded, after ``steps`` updates; the optimizer must have its state tensors already.

    ``read`` returns the tensor of a name; every rank reads all of them and keeps its part.
    """
    for name, parameter in _trained(model):
        for kind in _kinds(parameter):
            _write(optimizer, parameter, kind, read(f"{kind}/{name}"))
    for state in _base(optimizer).state.values():
        state["step"].fill_(steps)  # the bias correction of Adam depends on it


def applied_steps(optimizer: Any) -> int:
    """Updates that the optimizer applied since the start; skipped steps do not count."""
    steps = [int(state["step"]) for state in _base(optimizer).state.values() if "step" in state]
    return max(steps, default=0)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _kinds(parameter: nn.Parameter) -> tuple[str, ...]:
    # float32 weights are their own master copy, and are in the model already
    return MOMENTS if parameter.dtype == torch.float32 else (MASTER, *MOMENTS)


def _base(optimizer: Any) -> Any:
    """The AdamW inside ZeRO's optimizer; stage 0 has no other."""
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def _read(optimizer: Any, parameter: nn.Parameter, kind: str) -> Tensor:
    if optimizer is _base(optimizer):
        unsharded: Tensor = optimizer.state[parameter][kind]
        return unsharded
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    whole: Tensor = (
        safe_get_full_fp32_param(parameter) if kind == MASTER else safe_get_full_optimizer_state(parameter, kind)
    )
    return whole


def _write(optimizer: Any, parameter: nn.Parameter, kind: str, whole: Tensor) -> None:
    if optimizer is _base(optimizer):
        optimizer.state[parameter][kind].copy_(whole)
    elif hasattr(parameter, "ds_id"):
        _write_partition(parameter, kind, whole)
    else:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if kind == MASTER:
            safe_set_full_fp32_param(parameter, whole)
        else:
            safe_set_full_optimizer_state(parameter, whole, kind)


def _write_partition(parameter: Any, kind: str, whole: Tensor) -> None:
    """ZeRO-3: write this rank's part.

    DeepSpeed 0.19's setter for whole tensors fails when the ranks do not divide the elements evenly; use it here once
    it does not.
    """
    from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = safe_get_local_fp32_param(parameter).numel()
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    # ZeRO-3 flattens a parameter, pads it with zeros to a multiple of the ranks, and gives each rank one part.
    padded = whole.new_zeros((rank + 1) * size)
    padded[: full_numel(parameter)] = whole.flatten()[: (rank + 1) * size]
    part = padded[rank * size :]  # [size]
    if kind == MASTER:
        safe_set_local_fp32_param(parameter, part)
    else:
        safe_set_local_optimizer_state(parameter, part, kind)
