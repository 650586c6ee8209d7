"""Where each checkpoint tensor lives in a vLLM model: fused, padded, tied or shared out to ranks, but unquantised.

A checkpoint holds ``q_proj``, ``k_proj`` and ``v_proj``; the model holds one ``qkv_proj``, their rows one after
another. With tensor parallelism each rank holds some rows of a tensor, or some columns of all rows, or all of it. For a
model that keeps its weights in another way, UnknownLayout is raised and vLLM's own reload updates it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class UnknownLayout(Exception):
    """The model keeps a parameter in a way that this module cannot handle; the message names it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What this rank holds of one checkpoint tensor."""

    name: str
    rows: slice
    """Of the checkpoint tensor."""
    columns: slice | None
    """Of these rows; None for all."""
    place: slice
    """The rows of the parameter that hold it."""

    def of(self, tensor: Tensor) -> Tensor:
        """The part of the checkpoint tensor, a view."""
        rows = tensor[self.rows]
        return rows if self.columns is None else rows[:, self.columns]


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One parameter of the model, and the checkpoint tensors that its rows come from."""

    module: nn.Module
    attribute: str
    """Usually ``"weight"`` or ``"bias"``."""
    sources: tuple[str, ...]
    """Checkpoint names, in the order of their rows."""
    shape: tuple[int, ...]
    """Of the whole parameter on this rank, padding included, also while vLLM keeps only a packed copy of it."""

    @property
    def parameter(self) -> nn.Parameter:
        """The live parameter, looked up each time: vLLM may replace the object."""
        parameter: nn.Parameter = getattr(self.module, self.attribute)
        return parameter

    @property
    def is_packed(self) -> bool:
        """True when only a packed copy exists, which cannot be read back."""
        return tuple(self.parameter.shape) != self.shape


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where all checkpoint tensors of one model live."""

    slots: tuple[Slot, ...]
    """A tied parameter appears once for each module that holds it."""
    aliases: Mapping[str, str]
    """Tied tensors that a checkpoint may repeat under a second name, with the name of the tensor they equal."""

    @property
    def names(self) -> set[str]:
        """Checkpoint tensors that the model needs."""
        return {name for slot in self.slots for name in slot.sources}


def layout_of(model: nn.Module, *, shared_out: bool = False) -> Layout:
    """The layout of a model that vLLM has loaded. Raises UnknownLayout, also for a part of a model unless asked."""
    fused: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    found: list[Slot] = []
    aliases: dict[str, str] = {}
    owners: dict[int, tuple[str, ...]] = {}  # by the parameter's id: a tied parameter is met once per module
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            own = _sources(path, attribute, fused)
            sources = owners.setdefault(id(parameter), own)
            aliases |= {name: source for name, source in zip(own, sources, strict=True) if name != source}
            found.append(Slot(module, attribute, sources, _full_shape(path, module, attribute, parameter, shared_out)))
    return Layout(tuple(found), aliases)


def check_names(layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    """Raise UnknownLayout for a tensor that the model has no place for."""
    # Missing names are found where parameters are made of them; here the surplus ones, of which only repeated tied
    # tensors are allowed.
    for name in tensors.keys() - layout.names:
        source = layout.aliases.get(name)
        if source is None:
            raise UnknownLayout(f"the model has no place for {name!r}")
        if source in tensors and not torch.equal(tensors[name], tensors[source]):
            raise UnknownLayout(f"{name!r} is tied to {source!r}, but their values differ")


def assemble(slot: Slot, tensors: Mapping[str, Tensor]) -> Tensor:
    """The parameter of a slot from checkpoint tensors; rows beyond them (vocabulary padding) are 0.

    Raises UnknownLayout when names, shapes or the dtype do not fit.
    """
    missing = [name for name in slot.sources if name not in tensors]
    if missing:
        raise UnknownLayout(f"no checkpoint tensor {missing[0]!r} for {slot.attribute} of {slot.module}")
    parts = [tensors[name] for name in slot.sources]
    rows = sum(part.shape[0] for part in parts)
    if rows > slot.shape[0] or any(tuple(part.shape[1:]) != slot.shape[1:] for part in parts):
        raise UnknownLayout(f"{slot.sources}: shapes {[tuple(p.shape) for p in parts]} do not make {slot.shape}")
    whole = parts[0].new_zeros(slot.shape) if rows < slot.shape[0] else parts[0].new_empty(slot.shape)
    for part, (start, end) in zip(parts, _row_ranges(parts), strict=True):
        whole[start:end].copy_(part)
    return whole


def disassemble(slot: Slot, whole: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint tensors that a whole parameter is made of, as views. The inverse of ``assemble``."""
    start = 0
    for name in slot.sources:
        end = start + shapes[name][0]
        yield name, whole[start:end]
        start = end


def _row_ranges(parts: list[Tensor]) -> Iterator[tuple[int, int]]:
    start = 0
    for part in parts:
        yield start, start + part.shape[0]
        start += part.shape[0]


def _sources(path: str, attribute: str, fused: Mapping[str, list[str]]) -> tuple[str, ...]:
    prefix, _, last = path.rpartition(".")
    names = fused.get(last, [last])
    return tuple(".".join(filter(None, (prefix, name, attribute))) for name in names)


def parts_of(slot: Slot, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
    """What this rank's parameter is made of, in order. Raises UnknownLayout when names or shapes do not fit."""
    start = 0
    for number, name in enumerate(slot.sources):
        if name not in shapes:
            raise UnknownLayout(f"no checkpoint tensor {name!r} for {slot.attribute} of {slot.module}")
        rows, columns = _share(slot, number, shapes[name])
        end = start + rows.stop - rows.start
        width = shapes[name][1:] if columns is None else (columns.stop - columns.start, *shapes[name][2:])
        if end > slot.shape[0] or width != slot.shape[1:]:
            raise UnknownLayout(f"{name}: shape {shapes[name]} does not fit into {slot.shape} of {slot.attribute}")
        yield Part(name, rows, columns, slice(start, end))
        start = end


def _share(slot: Slot, number: int, shape: tuple[int, ...]) -> tuple[slice, slice | None]:
    """Rows and columns of the slot's source of this number that belong to this rank."""
    from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    module: Any = slot.module
    if getattr(module, "tp_size", 1) == 1:
        return slice(0, shape[0]), None
    if isinstance(module, VocabParallelEmbedding):
        mine = module.shard_indices
        return slice(mine.org_vocab_start_index, mine.org_vocab_end_index), None
    if isinstance(module, QKVParallelLinear) and number:
        # Fewer heads of keys and values than ranks: several ranks hold the same one.
        return _nth(
            shape[0], module.tp_rank // module.num_kv_head_replicas, module.tp_size // module.num_kv_head_replicas
        ), None
    if isinstance(module, ColumnParallelLinear):
        return _nth(shape[0], module.tp_rank, module.tp_size), None
    if isinstance(module, RowParallelLinear) and slot.attribute == "weight":
        return slice(0, shape[0]), _nth(shape[1], module.tp_rank, module.tp_size)
    return slice(0, shape[0]), None


def _nth(size: int, number: int, count: int) -> slice:
    share = size // count
    return slice(number * share, (number + 1) * share)


def _full_shape(
    path: str, module: nn.Module, attribute: str, parameter: nn.Parameter, shared_out: bool
) -> tuple[int, ...]:
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    method: Any = getattr(module, "quant_method", None)
    if getattr(module, "tp_size", 1) > 1 and not shared_out:
        raise UnknownLayout(f"{path}.{attribute}: each rank holds a part of it")
    if method is None or type(method) is UnquantizedEmbeddingMethod:
        return tuple(parameter.shape)
    if isinstance(module, LinearBase) and type(method) is UnquantizedLinearMethod:
        # On one rank by the sizes of the layer, since a packed parameter is empty.
        whole = attribute == "weight" and module.tp_size == 1
        return (module.output_size, module.input_size) if whole else tuple(parameter.shape)
    raise UnknownLayout(f"{path}.{attribute}: {type(module).__name__} with {type(method).__name__}")
