"""A causal LM whose forward pass ends in scores and not in logits, as one module for DeepSpeed.

Shape letters: B rows, T tokens, N places scored, H size of a hidden state, V vocabulary.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.algorithms.head import Head, Query
from rlserve.algorithms.token_scores import Scores, token_scores
from rlserve.models.attention import Sequences, takes_starts

logger = logging.getLogger(__name__)

CAPS = ("final_logit_softcapping",)
"""Names in model configurations for a cap on the logits (Gemma)."""
FACTORS = ("logit_scale",)
"""For a factor of the logits (Cohere)."""
DIVISORS = ("logits_scaling",)
"""For a divisor of the logits (Granite)."""
PROBE = 8
"""Tokens on which the fused head is compared with the model's own."""
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference of their logits, relative to the largest: far above rounding, far below a factor or cap missed."""


class FusedHead(nn.Module):
    """The model's output embedding, from hidden states to scores.

    Weight and bias are those of the model, registered here too: under ZeRO-3 a module's own parameters are whole in its
    forward pass and in its backward pass, so across all chunks.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.weight = head.weight if isinstance(head.weight, nn.Parameter) else None
        self.bias = head.bias if isinstance(head.bias, nn.Parameter) else None
        self.head = replace(head, weight=None, bias=None)

    def forward(self, hidden: Tensor, query: Query | None = None) -> Scores | Tensor:
        """Scores of ``[N, H]``; the logits ``[N, V]`` where no query is given."""
        return self.whole.logits(hidden) if query is None else token_scores(hidden, self.whole, query)

    @property
    def whole(self) -> Head:
        """The head with its weights."""
        return replace(self.head, weight=self.weight, bias=self.bias)


class ScoredModel(nn.Module):
    """``model`` with its head fused, unless the head does more than products, a factor and a cap."""

    def __init__(
        self, model: nn.Module, *, compiled: bool = False, join: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """``join`` makes whole rows ``[B, T, H]`` of the stretch that this rank has of each, if ranks share rows."""
        super().__init__()
        self.model: Any = model
        self._join = join
        head = _head_of(model)
        self.is_fused = head is not None
        self.head = FusedHead(replace(head or Head(), compiled=compiled))

    def forward(self, *, places: Tensor, query: Query | None, **inputs: Any) -> Any:
        """Scores ``[N]`` and ``[N, K]`` of the tokens behind the ``places`` (``[N]``, in the flattened batch).

        Without a query, the logits there ``[N, V]`` twice: by the fused head and by the model's own.
        """
        if query is None:
            return self._compared(places, inputs)
        # index_select: the backward pass of an index with brackets sorts the places
        return self.head(self.states(**inputs).flatten(0, 1).index_select(0, places), query)

    def states(self, **inputs: Any) -> Tensor:
        """What the head works on: ``[B, T, H]``, or the logits ``[B, T, V]`` where it is not fused."""
        states: Tensor = (
            self.model.base_model(**inputs).last_hidden_state if self.is_fused else self.model(**inputs).logits
        )
        return states if self._join is None else self._join(states)

    def _compared(self, places: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        states: list[Tensor] = []
        hook = self.model.base_model.register_forward_hook(lambda *call: states.append(call[2].last_hidden_state))
        try:
            logits = self.model(**inputs).logits
        finally:
            hook.remove()
        return self.head(states[0].flatten(0, 1)[places]), logits.flatten(0, 1)[places]


@torch.no_grad()
def check_fused(scored: ScoredModel, forward: Any, device: torch.device, *, sharing: int = 1) -> None:
    """Fall back to whole logits where the fused head differs from the model's own.

    A collective under ZeRO-3, and of the ``sharing`` ranks that have a stretch of each row.
    """
    if not scored.is_fused:
        logger.warning("the model's head cannot be fused: logits are held whole, which takes more memory")
        return
    vocabulary = len_of(scored.head.weight)
    ids = (torch.arange(PROBE, device=device) * 7 + 3)[None] % vocabulary  # any tokens will do, if they differ
    rows = Sequences.of(torch.arange(PROBE * sharing)[None])
    starts = rows.arguments(device) if takes_starts(_attention(scored)) else {}
    positions = torch.arange(PROBE, device=device)[None]
    places = torch.arange(PROBE, device=device)
    ours, theirs = forward(places=places, query=None, input_ids=ids, position_ids=positions, use_cache=False, **starts)
    limit = CLOSE.get(theirs.dtype, CLOSE[torch.float32])
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > limit * theirs.abs().max():
        scored.is_fused = False
        scored.head.weight = scored.head.bias = None
        scored.head.head = Head(compiled=scored.head.head.compiled)
        logger.warning("the model does more with its logits than rlserve knows: they are held whole, in more memory")


def _attention(scored: ScoredModel) -> str:
    return str(scored.model.config._attn_implementation)


def len_of(weight: Tensor | None) -> int:
    """Rows of a weight, also where this rank holds a part of it (DeepSpeed sets ``ds_shape``)."""
    assert weight is not None
    return int(getattr(weight, "ds_shape", weight.shape)[0])


def _head_of(model: Any) -> Head | None:
    """The head by the model's configuration; None where it is no matrix of its own."""
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(layer, nn.Linear) or getattr(model, "base_model", model) is model:
        return None
    config = model.config.get_text_config()

    def number(names: tuple[str, ...]) -> float | None:
        found = (getattr(config, name, None) for name in names)
        return next((float(value) for value in found if value is not None), None)

    scale = (number(FACTORS) or 1.0) / (number(DIVISORS) or 1.0)
    return Head(weight=layer.weight, bias=layer.bias, scale=scale, softcap=number(CAPS))
