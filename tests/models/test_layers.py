"""Compiled layers compute what they did before."""

import importlib.util

import pytest
import torch

from rlserve.actors.learner.train.scorer import Scorer, load_model
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import ConfigError
from tests.support.models.learner_work import random_batch, save_policy


def test_kernels_that_are_missing_are_refused(tmp_path):
    if importlib.util.find_spec("liger_kernel") is not None:
        pytest.skip("liger-kernel is installed here")
    with pytest.raises(ConfigError, match=r"learner\.kernels: is 'liger', but liger-kernel is not installed"):
        load_model(str(save_policy(tmp_path)), LearnerConfig(dtype="float32", kernels="liger"))


# The compiler's C++ takes minutes on a busy machine: by default its front half, which captures and differentiates.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.whole)])
def test_compiled_layers_equal_eager_ones_at_every_width(tmp_path, monkeypatch, backend):
    # An engine that this process started earlier has set TORCHDYNAMO_DISABLE, as vLLM's CPU build wants it.
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend=backend, **options))
    torch._dynamo.reset()
    path = str(save_policy(tmp_path))
    results = []
    for settings in ({}, {"compile": True, "gradient_checkpointing": True}):
        model = load_model(path, LearnerConfig(dtype="float32", **settings))
        scorer = Scorer.around(model, torch.device("cpu"))
        found = []
        for width in (20, 11):
            outputs = scorer(random_batch(width, width=width), needs=("entropy",))
            model.zero_grad()
            outputs.logprobs.sum().backward()
            found += [outputs.logprobs, outputs.entropy, *(p.grad for p in model.parameters())]
        results.append(found)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * max(1.0, float(right.detach().abs().max())))


def test_kernels_that_cannot_be_compiled_are_refused_together():
    # Liger 0.8.5 with torch 2.11 on an H200: triton.compiler.errors.CompilationError inside torch.compile.
    with pytest.raises(ValueError, match=r"learner\.kernels: is 'liger' with compile = true"):
        LearnerConfig(kernels="liger", compile=True)
