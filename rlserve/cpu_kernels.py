"""How torch computes on CPU: with the fastest kernels that are still float32, in memory that it keeps.

Torch gives float32 products to MKL, which on AMD's processors leaves AVX-512 unused; oneDNN uses it. Torch's only
switch to oneDNN is to allow bfloat16 inside. oneDNN makes use of that permission on processors with AMX alone, so
elsewhere products stay float32; a probe makes sure of it. Fused attention makes many small products, each of which
oneDNN has to look up: short sequences are faster as a few batched ones. ``rlserve bench learner`` measures both.
"""

import ctypes
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
NEVER_TRIM = 2**31 - 1
NEEDED = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
PROBE = 256
FINE = 1 + 2.0**-12
"""A number that bfloat16 and tf32 round to 1."""
SHORT = 256
"""Tokens up to which attention without fusion is faster."""


def set_up_process() -> None:
    """Choose kernels and memory for a process that trains or scores on CPU."""
    prefer_onednn()
    keep_freed_memory()


def prefer_onednn() -> bool:
    """Have oneDNN multiply, in the whole process, where that is faster and still float32; says whether it does."""
    if not _gains():
        return False
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    if not _is_float32():
        matmul.fp32_precision = before
        return False
    return True


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next tensor of that size, in the whole process.

    As it comes it gives large blocks back to the kernel, which has to clear every page of the next: a tenth of the
    time of a learner's step. No effect where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)


def short_attention(width: int, device: torch.device) -> AbstractContextManager[None]:
    """Attention over rows of ``width`` tokens: not fused where that is faster, as torch chooses elsewhere.

    What is recomputed in the backward pass must be computed under the same: not for gradient checkpointing.
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
