"""The fused head against logits held whole: values, gradients, memory."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms.head import Head, Query
from rlserve.algorithms.token_scores import token_scores

N, H, V = 7, 5, 11


def whole(hidden, head, query):
    """The scores by autograd of torch, from ``[N, V]``."""
    logits = hidden if head.weight is None else hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    warm = logits if query.temperature is None else logits / query.temperature
    log_p = warm.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    scores = [log_p.gather(-1, query.ids[:, None])[:, 0], entropy, logits.logsumexp(-1)]
    if query.top_ids is None:
        return scores
    log_p = log_p if query.top_temperature is None else (logits / query.top_temperature).log_softmax(-1)
    scores.append(log_p.gather(-1, query.top_ids))
    if query.unshared is None:
        return scores
    others = log_p[:, query.unshared]
    return [*scores, others.topk(min(query.top_ids.shape[-1], others.shape[-1])).values, others.logsumexp(-1)]


def random_case(seed, *, bias, scale, softcap, heated, top, unshared, own_head=True, work_bytes=2**30):
    torch.manual_seed(seed)
    hidden = torch.randn(N, H if own_head else V, dtype=torch.float64, requires_grad=True)
    head = Head(
        weight=torch.randn(V, H, dtype=torch.float64, requires_grad=True) if own_head else None,
        bias=torch.randn(V, dtype=torch.float64, requires_grad=True) if bias and own_head else None,
        scale=scale,
        softcap=softcap,
        work_bytes=work_bytes,
    )
    query = Query(
        ids=torch.randint(0, V, (N,)),
        temperature=0.5 + torch.rand(N, 1, dtype=torch.float64) if heated else None,
        top_ids=torch.randint(0, V, (N, 4)) if top else None,  # some twice, some the token itself
        top_temperature=top or None,
        unshared=torch.arange(V) % 3 == 0 if unshared else None,
        entropy=True,
        entropy_gradient=True,
        log_partition=True,
    )
    return hidden, head, query


def slopes(scores, seed, leaves):
    """The gradient by the leaves of a random combination of the scores."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(s.shape, generator=generator, dtype=torch.float64) for s in scores]
    total = sum((w * s).sum() for w, s in zip(weights, scores, strict=True))
    return torch.autograd.grad(total, leaves)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]),
    softcap=st.sampled_from([None, 2.0]),
    heated=st.booleans(),
    top=st.sampled_from([0.0, 1.0, 1.7]),
    unshared=st.booleans(),
    own_head=st.booleans(),
    work_bytes=st.sampled_from([1, 300, 2**30]),
)
def test_values_and_gradients_are_those_of_whole_logits_oracle(seed, work_bytes, **kind):
    hidden, head, query = random_case(seed, work_bytes=work_bytes, **kind)
    expected = whole(hidden, head, query)
    got = token_scores(hidden, head, query)[: len(expected)]
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right)
    leaves = [t for t in (hidden, head.weight, head.bias) if t is not None]
    for left, right in zip(slopes(got, seed, leaves), slopes(expected, seed, leaves), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("work_bytes", [500, 2**30])
def test_gradients_are_those_of_finite_differences_oracle(work_bytes):
    kind = {"bias": True, "scale": 0.5, "softcap": 3.0, "heated": True, "top": 1.3, "unshared": True}
    hidden, head, query = random_case(0, work_bytes=work_bytes, **kind)

    def scores(h, w, b):
        return token_scores(h, replace(head, weight=w, bias=b), query)

    assert torch.autograd.gradcheck(scores, (hidden, head.weight, head.bias))


@pytest.mark.parametrize("index", range(6))
def test_each_score_alone_has_its_gradient(index):
    kind = {"bias": False, "scale": 1.0, "softcap": None, "heated": True, "top": 1.3, "unshared": True}
    hidden, head, query = random_case(1, work_bytes=300, **kind)
    got, expected = (f(hidden, head, query)[index] for f in (token_scores, whole))
    leaves = (hidden, head.weight)
    for left, right in zip(slopes([got], 2, leaves), slopes([expected], 2, leaves), strict=True):
        torch.testing.assert_close(left, right)


def test_weights_that_are_embeddings_too_get_both_gradients():
    torch.manual_seed(0)
    table = torch.randn(V, H, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, V, (N,))
    query = Query(ids=ids.roll(1), entropy=True)
    grads = []
    for scores in (token_scores, whole):
        hidden = torch.tanh(table[ids])
        (own,) = torch.autograd.grad(scores(hidden, Head(weight=table, work_bytes=1), query)[0].sum(), table)
        grads.append(own)
    torch.testing.assert_close(*grads)


def test_no_token_gives_zeros_with_a_gradient():
    hidden = torch.randn(0, H, requires_grad=True)
    weight = torch.randn(V, H, requires_grad=True)
    scores = token_scores(hidden, Head(weight=weight), Query(ids=torch.zeros(0, dtype=torch.int64), entropy=True))
    scores[0].sum().backward()
    assert hidden.grad.shape == (0, H) and not weight.grad.any() and weight.grad.shape == (V, H)


def test_sums_over_many_chunks_keep_what_bfloat16_would_lose():
    """The weight's gradient of a bfloat16 head is that of float32, rounded once, however many chunks there are."""
    torch.manual_seed(0)
    hidden = torch.randn(4096, 16, dtype=torch.bfloat16)
    weight = torch.randn(40, 16, dtype=torch.bfloat16)
    query = Query(ids=torch.randint(0, 40, (4096,)))
    found = []
    for dtype, work_bytes in ((torch.float64, 2**30), (torch.bfloat16, 40 * 16 * 16)):
        leaf = weight.to(dtype, copy=True).requires_grad_()
        scores = token_scores(hidden.to(dtype), Head(weight=leaf, work_bytes=work_bytes), query)
        (-scores[0].sum()).backward()
        found.append(leaf.grad.double())
    exact, ours = found
    assert (ours - exact).norm() / exact.norm() < 2**-8  # of bfloat16's 8 digits


@pytest.mark.whole
@pytest.mark.parametrize("everything", [False, True])
def test_compiled_kernels_compute_the_same(everything):
    top = {"top": 1.3, "unshared": True} if everything else {"top": 0.0, "unshared": False}
    hidden, head, query = random_case(
        3, bias=False, scale=1.0, softcap=3.0 if everything else None, heated=True, **top, work_bytes=500
    )
    results = []
    for compiled in (False, True):
        scores = token_scores(hidden, replace(head, compiled=compiled), query)[: 6 if everything else 2]
        results.append([*scores, *slopes(scores, 4, (hidden, head.weight))])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right)


MEASURE = """
import torch
from rlserve.algorithms.head import Head, Query
from rlserve.algorithms.token_scores import token_scores
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
def work(tokens):
    hidden = torch.randn(tokens, 32, requires_grad=True)
    weight = torch.randn(20000, 32, requires_grad=True)
    head = Head(weight=weight, work_bytes=16 * 2**20)
    token_scores(hidden, head, Query(ids=torch.zeros(tokens, dtype=torch.int64), entropy=True))[0].sum().backward()
work(64)
for tokens in (500, 2000):
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again
    before = status("VmRSS")
    work(tokens)
    print(status("VmHWM") - before)
"""


def test_memory_does_not_grow_with_the_tokens():
    """Whole logits of 2,000 tokens would take 160 MB a copy."""
    # Large blocks go back when they are freed: what the C library keeps of them is not needed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=environment)
    few, many = map(float, done.stdout.split())
    assert many < 80 and many - few < 8, (few, many)  # MiB
