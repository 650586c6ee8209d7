"""Pairs of random samples as micro-batches."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlserve.algorithms import metrics, registry
from rlserve.algorithms.batch import PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import denominator
from tests.support.models.token_batches import Sample, gather, packed, padded, scatter, with_reference


def paired(samples: Sequence[Sample], *, first: int = 0, pack: bool = False, total: int = 0) -> TokenBatch:
    """Samples 2i (chosen) and 2i + 1 (rejected) are pair i; each pair weighs 1 / ``total`` pairs."""
    batch = with_reference(samples, (packed if pack else padded)(samples, first=first), first=first)
    ids = batch.sequence_ids
    weight = 1 / (total or len(samples) // 2)
    return replace(
        batch,
        pair_ids=torch.where(ids < 0, ids, ids // 2),
        preferred=((ids >= 0) & (ids % 2 == 0)).double(),
        weights=(ids >= 0).double() * weight,
    )


def run(
    samples: Sequence[Sample], splits: Sequence[int], config, *, pack: bool = False
) -> tuple[float, list[Tensor], dict[str, float]]:
    """(loss, gradient by sample, merged metrics) with micro-batches of these numbers of samples."""
    algorithm = registry.create(config)
    parts, first = [], 0
    for size in splits:
        part = samples[first : first + size]
        parts.append((first, part, paired(part, first=first, pack=pack, total=len(samples) // 2)))
        first += size
    shared = denominator([batch for _, _, batch in parts], num_sequences=len(samples))
    loss, gradients, measured = 0.0, [], []
    for first, part, batch in parts:
        policy = scatter(part, "policy", batch, first=first).requires_grad_()
        out = algorithm.loss(PolicyOutputs(logprobs=policy, entropy=policy.detach() ** 2), batch, shared)
        out.loss.backward()
        loss += float(out.loss.detach())
        gradients += gather(policy.grad, part, batch, first=first)
        measured.append(out.metrics)
    return loss, gradients, metrics.results(metrics.merge(measured))
