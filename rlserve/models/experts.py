"""How evenly a mixture of experts is used, counted where its routers choose.

Counts of a whole optimizer batch over all ranks: those of one micro-batch say little, since few tokens cannot be spread
evenly over many experts. Padding is counted too.
"""

from typing import Any

import torch
from torch import Tensor, nn


class ExpertLoad:
    """Tokens by router and expert of a model's forward passes with gradient, since the last ``take``."""

    def __init__(self, model: nn.Module) -> None:
        # transformers names the module that chooses a token's experts so, in all families that it holds fused.
        routers: list[Any] = [
            m for m in model.modules() if type(m).__name__.endswith("Router") and hasattr(m, "num_experts")
        ]
        device = next(model.parameters()).device
        experts = max((int(router.num_experts) for router in routers), default=0)
        self.counts = torch.zeros((len(routers), experts), dtype=torch.float64, device=device)
        """``[routers, experts]``; empty for a model without."""
        for row, router in zip(self.counts, routers, strict=True):
            router.register_forward_hook(lambda _, given, found, row=row: _count(row, found))

    def take(self) -> Tensor:
        """The counts so far, ``[routers, experts]`` in host memory; they begin again."""
        taken = self.counts.cpu().clone()
        self.counts.zero_()
        return taken


def busiest(counts: Tensor) -> float:
    """Tokens of the busiest expert over those of a mean one, in the router where that is the most; 1 is even.

    ``counts``: ``[routers, experts]``.
    """
    return float((counts.amax(1) / counts.mean(1).clamp(min=1e-9)).max())


def _count(row: Tensor, found: Any) -> None:
    """``found`` is what a router returns: among it the chosen experts, ``[T, k]`` integers."""
    if not torch.is_grad_enabled():
        return
    for chosen in found if isinstance(found, tuple) else ():
        if isinstance(chosen, Tensor) and not chosen.is_floating_point():
            taken = chosen.detach().reshape(-1)
            row.scatter_add_(0, taken, torch.ones_like(taken, dtype=row.dtype))
