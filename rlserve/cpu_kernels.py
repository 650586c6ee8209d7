"""Sets torch up on CPU: the fastest kernels that still compute in float32, and memory kept for the next tensor.

Torch uses MKL for float32 products, which leaves AVX-512 unused on AMD processors; oneDNN uses it. Torch's only switch
to oneDNN is to allow bfloat16 inside a product. oneDNN uses that permission only on processors with AMX, so elsewhere
products stay float32; a probe verifies it. Fused attention makes many small products, each of which costs oneDNN a
look-up, so short sequences are faster as a few batched products. ``rlserve bench learner`` measures both.
"""

import ctypes
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt, as <malloc.h> numbers them."""
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""glibc accepts no larger one on 64-bit machines (HEAP_MAX_SIZE / 2)."""
NEVER_TRIM = 2**31 - 1
"""Largest int: mallopt takes no other word for "never"."""
NEEDED = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
"""Without all of these oneDNN has no AVX-512 kernels for float32."""
PROBE = 256
"""Side of the probe's matrices. Any size that is a matrix product for oneDNN will do."""
FINE = 1 + 2.0**-12
"""A number that bfloat16 and tf32 round to 1."""
SHORT = 256
"""Tokens up to which unfused attention was faster, as measured on an AMD EPYC."""


def set_up_process() -> None:
    """Choose kernels and memory for a process that trains or scores on CPU."""
    prefer_onednn()
    keep_freed_memory()


def prefer_onednn() -> bool:
    """Let oneDNN compute products in the whole process, where that is faster and still float32; True if it does."""
    if not _gains():
        return False
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    # Undone where the probe sees rounding: a processor with AMX computes in bfloat16 once it may.
    if not _is_float32():
        matmul.fp32_precision = before
        return False
    return True


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next tensor of that size, in the whole process.

    By default glibc returns large blocks to the kernel, which then clears every page of the next one: a tenth of the
    time of a learner's step. No effect where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Both: a block above the first is mapped by itself and unmapped when freed, one below it lies on the heap,
        # whose top the second keeps. Setting either also ends glibc's own adjusting of both.
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)


def short_attention(width: int, device: torch.device) -> AbstractContextManager[None]:
    """Context for attention over rows of ``width`` tokens: unfused where that is faster, else torch's choice.

    Not for gradient checkpointing, which recomputes the forward pass outside this context.
    """
    if device.type != "cpu" or width > SHORT:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def _gains() -> bool:
    processor = torch.cpu.get_capabilities()
    is_amd = str(processor.get("cpu_name", "")).startswith("AMD")
    return is_amd and torch.backends.mkldnn.is_available() and all(processor.get(name) for name in NEEDED)


def _is_float32() -> bool:
    fine = torch.full((PROBE, PROBE), FINE)
    return torch.equal(fine @ torch.eye(PROBE), fine)
