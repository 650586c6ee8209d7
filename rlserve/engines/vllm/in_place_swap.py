"""Builds the next weights beside the served ones and swaps references at once. For eager CPU models.

vLLM's CPU layers compute with a packed copy of their weights, made once after loading. Packing is the slow part of an
update, so it happens here while generation goes on; the swap itself moves references and copies nothing. It cannot work
where something holds the old tensors by address, such as a captured CUDA graph.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.engines.vllm.layout import Layout, UnknownLayout, assemble, check_names, layout_of

Kernel = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
PROBE_ROWS = 4
"""Rows of the product that compares two kernels. Any small number will do: a wrong packing differs in every row."""


@dataclass(slots=True, eq=False)
class Change:
    """The next weights of one module of the model."""

    module: Any
    """vLLM's module."""
    parameters: dict[str, Tensor] = field(default_factory=dict)
    """By attribute, as published: one whole, unpacked tensor each."""
    served: dict[str, Tensor] = field(default_factory=dict)
    """By attribute, as the layer holds it; packing may convert a bias to another dtype."""
    kernel: Kernel | None = None
    """Multiplies by the packed weight; None for modules without a matrix product."""


@dataclass(slots=True, eq=False)
class Exchange:
    """Prepares and applies changes of one model. Raises UnknownLayout for a model of another layout.

    Example::

        exchange = Exchange(model)
        exchange.check(start_tensors)             # once: this layout reproduces what vLLM loaded
        changes = exchange.prepare(new_tensors)   # beside generation, the slow part
        replaced = exchange.apply(changes)        # while generation is paused
    """

    model: nn.Module
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = layout_of(self.model)
        for slot in self.layout.slots:
            _check_module(slot.module)

    @torch.no_grad()
    def prepare(self, tensors: Mapping[str, Tensor], among: Set[str] | None = None) -> list[Change]:
        """Changes that make the model compute with these checkpoint tensors. The served weights stay untouched.

        ``among``: names of the tensors that may differ from those that are served; None for all. Raises UnknownLayout
        when they are not exactly the tensors of the model.
        """
        check_names(self.layout, tensors)
        touched = {id(s.module) for s in self.layout.slots if among is None or not among.isdisjoint(s.sources)}
        whole: dict[tuple[str, ...], Tensor] = {}
        changes: dict[int, Change] = {}
        for slot in (s for s in self.layout.slots if id(s.module) in touched):
            if slot.sources not in whole:  # tied parameters share one tensor, as in vLLM's model
                whole[slot.sources] = assemble(slot, tensors)
            change = changes.setdefault(id(slot.module), Change(slot.module))
            change.parameters[slot.attribute] = whole[slot.sources]
        packed: dict[int, Kernel] = {}  # by the weight's id: tied weights are packed once
        for change in changes.values():
            _pack(change, packed)
        return list(changes.values())

    def apply(self, changes: Iterable[Change]) -> list[object]:
        """Apply the changes; must not run beside a forward pass. Returns the replaced objects, to be freed later.

        Freeing large tensors takes milliseconds, so the caller keeps them until generation has resumed.
        """
        replaced: list[object] = []
        for change in changes:
            module = change.module
            for attribute, tensor in change.served.items():
                parameter = getattr(module, attribute)
                replaced.append(parameter.data)
                parameter.data = tensor
            if change.kernel is not None:
                replaced.append(module.cpu_linear)
                module.cpu_linear = change.kernel
        return replaced

    @torch.no_grad()
    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise UnknownLayout unless these tensors, which vLLM itself loaded, give layers equal to vLLM's."""
        for change in self.prepare(tensors):
            for attribute, tensor in change.served.items():
                if not torch.equal(getattr(change.module, attribute).data, tensor):
                    raise UnknownLayout(f"{attribute} of {change.module} is not what vLLM loaded")
            if change.kernel is not None and not _same_product(change):
                raise UnknownLayout(f"the kernel of {change.module} does not compute what vLLM's does")


def _check_module(module: nn.Module) -> None:
    has_method, has_kernel = hasattr(module, "quant_method"), hasattr(module, "cpu_linear")
    if has_method != has_kernel:
        raise UnknownLayout(f"{type(module).__name__} is not a plain CPU layer")


def _pack(change: Change, packed: dict[int, Kernel]) -> None:
    """Fill ``served`` and ``kernel`` by vLLM's own packing, run on a scratch module with the new weights."""
    change.served = dict(change.parameters)
    if not hasattr(change.module, "cpu_linear"):
        return
    weight = change.parameters["weight"]
    scratch: Any = nn.Module()
    for attribute, tensor in change.parameters.items():
        scratch.register_parameter(attribute, nn.Parameter(tensor, requires_grad=False))
    if id(weight) not in packed:
        packed[id(weight)] = _kernel_of(scratch)
    change.kernel = packed[id(weight)]
    change.served = {name: p.data for name, p in scratch.named_parameters() if name != "weight"}
    if change.module.weight.numel():  # empty where vLLM keeps the packed copy alone
        change.served["weight"] = weight


def _kernel_of(scratch: Any) -> Kernel:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(scratch, remove_weight=False)
    kernel: Kernel = scratch.cpu_linear
    return kernel


def _same_product(change: Change) -> bool:
    weight = change.parameters["weight"]
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBE_ROWS, weight.shape[1], generator=generator).to(weight.dtype)
    mine: Kernel | None = change.kernel
    assert mine is not None
    theirs: Kernel = change.module.cpu_linear
    return torch.equal(mine(probe, weight, None), theirs(probe, weight, None))
