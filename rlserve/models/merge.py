"""Merges a LoRA adapter into the weights of its base: ``W + (alpha / rank) B A`` for each layer that has one."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rlserve.errors import WeightsMismatch
from rlserve.models.adapter_files import PREFIX

A, B = ".lora_A.weight", ".lora_B.weight"


def merged(base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], scale: float) -> Iterator[tuple[str, Tensor]]:
    """The weights that the adapter changes, by their names in ``base`` and in its precision.

    A is ``[rank, in]``, B ``[out, rank]``. Each sum is made in float32 from the base itself, so that version after
    version nothing adds up. Raises WeightsMismatch when an adapter does not fit.
    """
    for name, down in adapter.items():
        if name.endswith(B):
            continue
        layer = name.removeprefix(PREFIX).removesuffix(A) + ".weight"
        up = adapter.get(name.removesuffix(A) + B) if name.endswith(A) else None
        weight = base.get(layer)
        if up is None or weight is None or weight.shape != (up.shape[0], down.shape[1]):
            raise WeightsMismatch(f"adapter: {name!r} does not fit into {layer!r} of the model that is served")
        whole = torch.addmm(weight.float(), up.float(), down.float(), alpha=scale)
        yield layer, whole.to(weight.dtype)
