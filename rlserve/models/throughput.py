"""How much a step computes, and how much a card could: the model FLOPs utilization (MFU).

FLOPs of a step are 6 for each weight of a matrix product and token (2 forward, 4 backward, of which 2 for the weight's
own gradient if it is trained; tied embeddings count once, untied input embeddings not at all, of routed experts those
that a token visits), and 6 heads x head size for each pair of a token and one before it in its sequence. What is
computed again in the backward pass is not counted.
"""

from typing import Any

import torch
from torch import Tensor, nn

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""FLOP/s in bfloat16 without sparsity, by a part of the card's name, the longer names first (NVIDIA's data sheets)."""
PER_WEIGHT = 6
PER_FROZEN_WEIGHT = 4
"""A weight that is not trained has no gradient of its own, which is a third of the work."""
GIB = 2**30


class FlopCounter:
    """FLOPs of training a model on sequences, of true length."""

    def __init__(self, model: nn.Module) -> None:
        trained, frozen = _product_weights(model)
        self.weights: float = trained + frozen
        """Weights that a token meets in matrix products."""
        self._per_token = PER_WEIGHT * trained + PER_FROZEN_WEIGHT * frozen
        config: Any = getattr(model, "config", None)
        text = config.get_text_config() if config is not None else None
        heads = getattr(text, "num_attention_heads", None) or 0
        size = getattr(text, "head_dim", None) or (getattr(text, "hidden_size", 0) // heads if heads else 0)
        self._per_pair: float = 12 * heads * size * (getattr(text, "num_hidden_layers", 0) or 0)

    def __call__(self, lengths: Tensor) -> float:
        """``[S]`` lengths of sequences; forward and backward."""
        tokens, pairs = float(lengths.sum()), float(lengths.double().square().sum())
        # Half of the pairs: a token attends to those before it alone.
        return self._per_token * tokens + self._per_pair * pairs / 2


def sequence_lengths(position_ids: Tensor, sequence_ids: Tensor) -> Tensor:
    """``[S]`` tokens of each sequence of a micro-batch ``[B, T]``, without padding."""
    begins = ((position_ids == 0) & (sequence_ids >= 0)).flatten()
    # [tokens]: which of the micro-batch's sequences each token is of
    number = begins.cumsum(0)[(sequence_ids >= 0).flatten()] - 1
    return torch.bincount(number) if len(number) else number


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that the card could do; 0 where that is not known."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), 0.0)


def peak_bytes(device: torch.device) -> int:
    """Most memory held at once by tensors on a GPU, or by the process on a CPU, since its start."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with open("/proc/self/status", encoding="ascii") as status:
        kibibytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return 1024 * kibibytes


def _product_weights(model: Any) -> tuple[float, float]:
    """Those that are trained, and those that are not."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if config is not None else None
    experts = next((n for name in ("num_experts", "num_local_experts") if (n := getattr(text, name, None))), 0)
    visited = (getattr(text, "num_experts_per_tok", 0) or 0) / experts if experts else 1.0
    embedding: Any = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    output: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    lookup = None if embedding is None or _is_tied(embedding, output) else embedding.weight
    totals = {True: 0.0, False: 0.0}
    for name, parameter in model.named_parameters():
        # ds_numel: of the whole weight, of which this rank may hold a part
        if parameter is not lookup:
            numel = int(getattr(parameter, "ds_numel", parameter.numel()))
            totals[parameter.requires_grad] += numel * (visited if ".experts." in name else 1.0)
    return totals[True], totals[False]


def _is_tied(embedding: Any, output: Any) -> bool:
    return output is not None and embedding.weight is output.weight
