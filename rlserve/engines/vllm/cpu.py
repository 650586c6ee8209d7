"""What vLLM does otherwise on CPU: the size of its KV cache, and the number of rows it multiplies at once."""

from typing import Any

import psutil

from rlserve.errors import ConfigError

LEAST_BYTES = 256 * 2**20
"""Floor for tiny models: cheap, and far more sequences than ``SEQUENCES`` run at once in it."""
SEQUENCES = 8
"""Sequences of the longest length that fit when the configuration leaves the size open: a group of the default size."""
MEMORY_SHARE = 0.25
"""Largest share of the free memory, unless a single sequence needs more: learner and verifiers run beside it."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
BLOCK_TOKENS = 128
"""Largest block of vLLM's CPU backend; each sequence ends in a block that is partly empty."""


def cpu_kv_cache_bytes(model: Any, *, dtype: str, max_length: int, asked: int) -> int:
    """Bytes for a model with the Hugging Face configuration ``model``: ``asked`` unless that is 0.

    Raises ConfigError when ``asked`` is too small for one sequence of ``max_length``.
    """
    sequence = sequence_bytes(model, dtype=dtype, max_length=max_length)
    if not asked:
        return room(sequence)
    if asked < sequence and _keeps_everything(model):
        raise ConfigError(
            f"kv_cache_bytes: is {asked}, but one sequence of max_length = {max_length} needs {sequence}; raise the "
            "former, lower the latter, or leave the former at 0"
        )
    return asked


def room(sequence: int) -> int:
    """Bytes where the configuration leaves the size open, for sequences of these bytes each."""
    share = int(psutil.virtual_memory().available * MEMORY_SHARE)
    return max(LEAST_BYTES, min(SEQUENCES * sequence, share), sequence)


def padded(tokens: int) -> int:
    """Tokens of the blocks that hold a sequence."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def sequence_bytes(model: Any, *, dtype: str, max_length: int) -> int:
    """Keys and values of one sequence in every layer; an upper bound for layers that keep less."""
    text = model.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers * 2 * heads * size * ITEM_BYTES[dtype] * padded(max_length))


def _keeps_everything(model: Any) -> bool:
    """Whether each layer keeps keys and values of all tokens: no window, no compression, no recurrent state."""
    text = model.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(text, "kv_lora_rank", None)


def rounded(rows: int) -> int:
    """The next larger size in use: at most a quarter more rows, and about 60 sizes up to 2048."""
    step = 1 if rows <= 8 else 8 if rows <= 64 else 16 if rows <= 256 else 64
    return -(-rows // step) * step


def round_products() -> None:
    """Make vLLM's linear layers in this process multiply rounded numbers of rows, and drop the added rows.

    oneDNN compiles a kernel for every number of rows it meets, which takes longer than most products of a small model,
    and keeps half a megabyte for each. The rows are the tokens of a step, so every number would occur.
    """
    from torch import Tensor
    from torch.nn.functional import pad
    from vllm import _custom_ops

    ops: Any = _custom_ops
    theirs = ops.onednn_mm

    def multiply(handler: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.shape[0]
        missing = rounded(rows) - rows
        if x.dim() != 2 or not missing:
            product: Tensor = theirs(handler, x, bias)
            return product
        return theirs(handler, pad(x, (0, 0, 0, missing)), bias)[:rows]  # type: ignore[no-any-return]

    ops.onednn_mm = multiply
