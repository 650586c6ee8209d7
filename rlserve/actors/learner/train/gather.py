"""Gathers the model's weights: whole tensors in host memory, by Hugging Face name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

GATHER_BYTES = 2**28
"""Bytes that ZeRO-3 gathers at once: a gather for each parameter costs several times more."""


Take = Callable[[str, Tensor], Tensor]
"""Makes of a parameter, which is whole for the duration of the call, what is handed out."""


def gather(
    model: nn.Module, dtype: torch.dtype, *, is_receiver: bool, take: Take | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Copies of all parameters and persistent buffers, contiguous, floating ones in ``dtype``; tied ones once.

    A collective where parameters are partitioned: all ranks exhaust it, only the receiver gets tensors. ``take`` makes
    the copies in another way; it is not used where names are converted.
    """
    if is_converted(model):
        return _in_checkpoint_names(model, _stream(model, _copy_in(dtype), is_receiver))
    return _stream(model, take or _copy_in(dtype), is_receiver)


def is_converted(model: nn.Module) -> bool:
    """Whether transformers changed names or shapes when it loaded the files."""
    # transformers 5 keeps here what loading converted; the list is empty where names and shapes are those of the files.
    return bool(getattr(model, "_weight_conversions", None))


def is_partitioned(model: nn.Module) -> bool:
    """Whether this rank holds parts of the parameters alone (ZeRO-3)."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def in_place(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors of which ``gather`` yields copies, where they are neither partitioned nor converted."""
    kept = model.state_dict(keep_vars=True).keys()
    return [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if name in kept)]


def published_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """``dtype`` for a floating tensor; others keep theirs."""
    return dtype if tensor.is_floating_point() else tensor.dtype


def _in_checkpoint_names(model: Any, stream: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Undo transformers' conversions at loading (fused experts, for example); holds all weights at once."""
    from transformers.core_model_loading import revert_weight_conversion

    state = dict(stream)
    # Empty on all ranks but the receiver.
    if state:
        yield from ((name, t.contiguous()) for name, t in revert_weight_conversion(model, state).items())


def _stream(model: nn.Module, take: Take, is_receiver: bool) -> Iterator[tuple[str, Tensor]]:
    for bucket in buckets(list(model.named_parameters()), GATHER_BYTES):
        with gathered([p for _, p in bucket]):
            copies = [(name, take(name, p)) for name, p in bucket] if is_receiver else []
        yield from copies  # outside of the block: the whole parameters are freed before anybody writes the copies
    if is_receiver:
        # Buffers are never partitioned. Those outside of the state dict are computed from the configuration.
        kept = model.state_dict().keys()
        yield from ((name, take(name, b)) for name, b in model.named_buffers() if name in kept)


def weight_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of all tensors that ``gather`` yields, where no names are converted."""
    return sum(full_numel(tensor) * published_dtype(tensor, dtype).itemsize for _, tensor in in_place(model))


def gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """Make parameters whole inside the block; all ranks enter it. Does nothing where they are not partitioned."""
    if not hasattr(parameters[0], "ds_id"):
        return nullcontext()
    import deepspeed

    # modifier_rank=None: no rank changes the parameters, so nothing is broadcast at the end of the block.
    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=None)
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


def _copy_in(dtype: torch.dtype) -> Take:
    # copy: the parameter may be in host memory already, and the next step overwrites it
    return lambda _, tensor: tensor.detach().to("cpu", published_dtype(tensor, dtype), copy=True).contiguous()
