"""Attention in which a row may hold several sequences and no mask is made: ``learner.attention = "varlen"``.

Shape letters: B rows, T tokens of a row, H heads, G heads of keys and values, D size of a head, S sequences.

Where sequences begin comes with each call of the model, by the names that flash attention has in transformers. On a GPU
it is torch's own kernel for bfloat16, forward and backward; elsewhere each sequence is attended to by itself.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rlserve.errors import ConfigError

VARLEN = "varlen"
SHARED_ROWS = "ulysses"
"""``varlen`` on rows of which several ranks have a stretch each."""
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int, float | None, int | None], Tensor]
"""Queries ``[tokens, H, D]``, keys and values ``[tokens, G, D]``, starts, longest, scale, window."""
MASKED = ("sdpa", "eager")
"""Attentions for which transformers makes a mask ``[T, T]`` when sequences share a row."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where sequences begin in the flattened batch, as arguments of the model."""

    starts: Tensor
    """``[S + 1]`` int32, the last is the number of tokens."""
    longest: int

    @classmethod
    def of(cls, position_ids: Tensor) -> "Sequences":
        """From ``[B, T]`` positions in host memory; each 0 begins a sequence, and so does each row."""
        begins = position_ids == 0
        begins[:, 0] = True
        starts = torch.cat([begins.flatten().nonzero()[:, 0], torch.tensor([begins.numel()])])
        return cls(starts.to(torch.int32), int(starts.diff().max()))

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """By the names of transformers' ``FlashAttentionKwargs``."""
        starts = self.starts.to(device, non_blocking=True)
        return {
            "cu_seq_lens_q": starts,
            "cu_seq_lens_k": starts,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }


def choose(attention: str, *, packing: bool, dtype: str, device: torch.device) -> str:
    """The attention that runs: the one asked for, or the best there is. Raises ConfigError for one that cannot.

    ``attention`` is empty, or a name that transformers knows.
    """
    on_gpu = device.type == "cuda"
    chosen = attention or (VARLEN if on_gpu and packing and dtype == "bfloat16" else "sdpa")
    if on_gpu and packing and chosen in MASKED:
        raise ConfigError(
            f"learner.attention: {chosen!r} makes a mask of tokens by tokens for packed rows, which no fast kernel "
            "takes; leave it empty with dtype = 'bfloat16', take 'flex_attention', or set learner.packing = false"
        )
    if on_gpu and chosen == VARLEN and dtype != "bfloat16":
        raise ConfigError("learner.attention: 'varlen' computes in bfloat16 on a GPU; set learner.dtype = 'bfloat16'")
    return chosen


def takes_starts(attention: str) -> bool:
    """Whether it gets the places where sequences begin, beside their positions."""
    return attention in (VARLEN, SHARED_ROWS) or attention.startswith("flash_attention")


def register(device: torch.device) -> None:
    """Make ``"varlen"`` known to transformers, for models on ``device``.

    transformers makes no mask for a name of which it knows only the attention.
    """
    from transformers import AttentionInterface

    run = _gpu_kernel() if device.type == "cuda" else _one_by_one
    AttentionInterface.register(VARLEN, functools.partial(varlen_attention, run=run))


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    run: Kernel,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``[B, T, H, D]`` of queries ``[B, H, T, D]`` and keys and values ``[B, G, T, D]``, causal within a sequence."""
    if softcap is not None or s_aux is not None or attention_mask is not None:
        raise ConfigError(
            "learner.attention: 'varlen' knows no caps, sinks or masks, which this model has; take 'flex_attention'"
        )
    rows, heads, width, _size = query.shape
    q, k, v = (t.transpose(1, 2).reshape(rows * width, -1, t.shape[-1]) for t in (query, key, value))
    return run(q, k, v, cu_seq_lens_q, max_length_q, scaling, sliding_window).view(rows, width, heads, -1), None


def _gpu_kernel() -> Kernel:
    # Here, before anything is compiled, and not at the top: its import loads torch's compiler, which takes seconds.
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11 takes fewer heads of keys unasked; 2.12 wants to be asked.
    takes_groups = "enable_gqa" in inspect.signature(varlen_attn).parameters
    asked: dict[str, Any] = {"enable_gqa": True} if takes_groups else {}

    def run(
        query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None
    ) -> Tensor:
        # (left, 0): causal, a token sees itself and those `left` before it; -1 is all.
        left = -1 if window is None else window - 1
        out: Any = varlen_attn(
            query, key, value, starts, starts, longest, longest, scale=scale, window_size=(left, 0), **asked
        )
        return cast(Tensor, out)

    return run


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None, window: int | None
) -> Tensor:
    parts = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        # [H, t, D] of one sequence
        q, k, v = (t[begin:end].transpose(0, 1) for t in (query, key, value))
        mask = None
        if window is not None:
            distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
            mask = (distance >= 0) & (distance < window)
        # A batch of one: torch's fused kernels take four dimensions.
        attended = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        parts.append(attended[0].transpose(0, 1))
    return torch.cat(parts)
