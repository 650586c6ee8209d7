"""What makes a CPU faster leaves results float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve import cpu_kernels
from rlserve.engines.vllm.cpu import rounded


@pytest.fixture(autouse=True)
def _as_before():
    before = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 300), inner=st.integers(1, 300), columns=st.integers(1, 300), seed=st.integers(0, 99))
def test_products_stay_float32(rows, inner, columns, seed):
    cpu_kernels.prefer_onednn()
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, inner, generator=generator)
    right = torch.randn(inner, columns, generator=generator)
    # bfloat16 inside would be off by 4e-3 of the norms
    bound = 1e-6 * left.norm(dim=1)[:, None] * right.norm(dim=0)[None] + 1e-7
    assert ((left @ right).double() - left.double() @ right.double()).abs().le(bound).all()


def test_a_processor_whose_products_lose_digits_keeps_torchs_default(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_gains", lambda: True)
    monkeypatch.setattr(cpu_kernels, "_is_float32", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    assert not cpu_kernels.prefer_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("width", [1, 7, cpu_kernels.SHORT, cpu_kernels.SHORT + 1])
def test_short_attention_is_the_same_attention(width):
    generator = torch.Generator().manual_seed(width)
    q, k, v = (torch.randn(2, 3, width, 16, generator=generator, requires_grad=True) for _ in range(3))

    def gradients(context):
        with context:
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (out.detach(), *torch.autograd.grad(out.square().sum(), (q, k, v)))

    ours = gradients(cpu_kernels.short_attention(width, torch.device("cpu")))
    theirs = gradients(cpu_kernels.nullcontext())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_sizes_of_products_are_few_and_little_larger():
    sizes = [rounded(rows) for rows in range(1, 2049)]
    assert all(rows <= size <= 1.25 * rows for rows, size in enumerate(sizes, start=1) if rows > 32)
    assert all(rows <= size < rows + 8 for rows, size in enumerate(sizes[:32], start=1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) < 64


@pytest.mark.parametrize("rows", [1, 9, 15, 16, 100])
def test_a_rounded_product_is_the_product(rows):
    ops = pytest.importorskip("vllm._custom_ops")
    if not ops._supports_onednn:
        pytest.skip("vLLM is not the CPU build")
    from rlserve.engines.vllm.cpu import round_products

    theirs = ops.onednn_mm
    try:
        round_products()
        weight, x, bias = torch.randn(24, 40), torch.randn(rows, 40), torch.randn(24)
        handler = ops.create_onednn_mm(weight.t())
        for given_bias in (None, bias):
            product = ops.onednn_mm(handler, x, given_bias)
            assert product.shape == (rows, 24)
            torch.testing.assert_close(product, torch.nn.functional.linear(x, weight, given_bias))
    finally:
        ops.onednn_mm = theirs
