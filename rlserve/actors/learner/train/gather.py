"""Gathers what is published and kept of a model: whole tensors in host memory, by Hugging Face name.

That is all weights, or of a model with adapters those alone.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.models.adapters import adapter_tensors

GATHER_BYTES = 2**28
"""Bytes that ZeRO-3 gathers at once: a gather for each parameter costs several times more."""

LAYER = re.compile(r"(.*?\.\d+)\.")
"""The layer that a parameter's name begins with."""
Take = Callable[[str, Tensor], Tensor]
"""Makes of a tensor, which is whole for the duration of the call, what is handed out."""
Named = Sequence[tuple[str, Tensor]]


def gather(
    model: nn.Module, dtype: torch.dtype, *, is_receiver: bool, take: Take | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Copies of the adapters, or of all parameters and persistent buffers; contiguous, floating ones in ``dtype``.

    Tied ones once, by the names of the checkpoint. A collective where parameters are partitioned: all ranks exhaust it,
    only the receiver gets tensors. ``take`` makes the copies in another way.
    """
    take = take or _copy_in(dtype)
    for bucket in _runs(model):
        with gathered([p for _, p in bucket]):
            copies = [(name, take(name, t)) for name, t in in_checkpoint_names(model, bucket)] if is_receiver else []
        yield from copies  # outside of the block: the whole parameters are freed before anybody writes the copies
    if is_receiver:
        # Buffers are never partitioned.
        yield from ((name, take(name, b)) for name, b in in_checkpoint_names(model, _kept_buffers(model)))


def is_partitioned(model: nn.Module) -> bool:
    """Whether this rank holds parts of the parameters alone (ZeRO-3)."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def in_place(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of which ``gather`` yields copies, where they are not partitioned; converted ones layer by layer."""
    for bucket in (*_runs(model), _kept_buffers(model)):
        yield from in_checkpoint_names(model, bucket)


def in_checkpoint_names(model: Any, named: Named) -> Named:
    """Undo what transformers converted when it loaded the files: names, and tensors such as fused experts.

    ``named`` holds all tensors of the layers that it names.
    """
    if not _is_converted(model):
        return named
    from transformers.core_model_loading import revert_weight_conversion

    state = {name: tensor.detach() for name, tensor in named}
    return [(name, tensor.contiguous()) for name, tensor in revert_weight_conversion(model, state).items()]


def published_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """``dtype`` for a floating tensor; others keep theirs."""
    return dtype if tensor.is_floating_point() else tensor.dtype


def _runs(model: nn.Module) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Parameters in order, in runs that are gathered at once; those of a layer together where names are converted."""
    named = _handed_out(model)
    if not _is_converted(model):
        yield from buckets(named, GATHER_BYTES)
        return
    for _, layer in groupby(named, key=lambda pair: _layer_of(pair[0])):
        yield list(layer)


def _handed_out(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return adapter_tensors(model) or list(model.named_parameters())


def _is_converted(model: nn.Module) -> bool:
    # transformers 5 keeps here what loading converted; the list is empty where names and shapes are those of the files.
    # Adapters are beside matrices that keep theirs.
    return bool(getattr(model, "_weight_conversions", None)) and not adapter_tensors(model)


def _layer_of(name: str) -> str:
    found = LAYER.match(name)
    return found[0] if found else ""


def _kept_buffers(model: nn.Module) -> Named:
    """Buffers outside of the state dict are computed from the configuration; beside adapters none is handed out."""
    if adapter_tensors(model):
        return []
    kept = model.state_dict(keep_vars=True).keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def weight_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of all tensors that ``gather`` yields."""
    tensors = (*_handed_out(model), *_kept_buffers(model))
    return sum(full_numel(tensor) * published_dtype(tensor, dtype).itemsize for _, tensor in tensors)


def held_bytes(model: nn.Module) -> int:
    """Bytes of the parameters, or of the parts of them, that this rank keeps."""
    # ds_tensor is a rank's part; the parameter itself is empty, or for the moment whole
    return sum(getattr(p, "ds_tensor", p).nbytes for p in model.parameters())


def gathered(parameters: Sequence[nn.Parameter], *, changes: bool = False) -> AbstractContextManager[Any]:
    """Make parameters whole inside the block; all ranks enter it. Does nothing where they are not partitioned.

    With ``changes`` the block gives them new values, the same on all ranks.
    """
    if not hasattr(parameters[0], "ds_id"):
        return nullcontext()
    import deepspeed

    # None: no rank changes the parameters, so nothing is broadcast at the end of the block.
    rank = 0 if changes else None
    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=rank)
    return context


def buckets(named: Sequence[tuple[str, nn.Parameter]], size_bytes: int) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Parameters in order, in runs of at most ``size_bytes``; a larger parameter is a run of its own."""
    run: list[tuple[str, nn.Parameter]] = []
    held = 0
    for name, parameter in named:
        size = full_numel(parameter) * parameter.element_size()
        if run and held + size > size_bytes:
            yield run
            run, held = [], 0
        run.append((name, parameter))
        held += size
    if run:
        yield run


def full_numel(parameter: Tensor) -> int:
    """Elements of the whole parameter, also where this rank holds a part (DeepSpeed sets ``ds_numel``)."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def host_copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy in host memory, which no later step overwrites."""
    source = tensor.detach().to(dtype)
    # Locked pages: a GPU copies several times faster into them, and torch keeps them for the next copies.
    room = torch.empty(source.shape, dtype=dtype, pin_memory=source.is_cuda)
    return room.copy_(source)


def _copy_in(dtype: torch.dtype) -> Take:
    return lambda _, tensor: host_copy(tensor, published_dtype(tensor, dtype))
