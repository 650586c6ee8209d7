"""Few sizes of matrix product where vLLM computes on CPU.

oneDNN compiles a kernel for every number of rows that it meets, which takes longer than most products of a small model
do, and keeps half a megabyte for each. The number of rows is that of the tokens of a step, so it takes every value: it
is rounded up to one of a few.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import pad


def rounded(rows: int) -> int:
    """The next of the sizes that are used: a quarter more at most, in all about 60 up to 2048."""
    step = 1 if rows <= 8 else 8 if rows <= 64 else 16 if rows <= 256 else 64
    return -(-rows // step) * step


def round_products() -> None:
    """Have vLLM's linear layers of this process multiply rounded numbers of rows; the others are dropped again."""
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
