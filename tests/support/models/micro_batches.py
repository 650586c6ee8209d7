"""One optimizer batch through an algorithm, cut into micro-batches in several ways."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlserve.algorithms import metrics, registry
from rlserve.algorithms.batch import PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import denominator
from tests.support.models.token_batches import Sample, gather, packed, padded, scatter, with_reference


def run(
    samples: Sequence[Sample], splits: Sequence[int], config, *, pack: bool = False, decoupled: bool = False
) -> tuple[float, list[Tensor], dict[str, float]]:
    """(loss, gradient by sample, merged metrics) with the samples cut into micro-batches of these sizes.

    Samples 2i and 2i + 1 are one group.
    """
    algorithm = registry.create(config)
    parts, first = [], 0
    for size in splits:
        part = samples[first : first + size]
        batch = (packed if pack else padded)(part, first=first, decoupled=decoupled)
        parts.append((first, part, _grouped(with_reference(part, batch, first=first))))
        first += size
    shared = denominator(
        [batch for _, _, batch in parts], num_sequences=len(samples), num_groups=(len(samples) + 1) // 2
    )
    loss, gradients, measured = 0.0, [], []
    for first, part, batch in parts:
        policy = scatter(part, "policy", batch, first=first).requires_grad_()
        outputs = PolicyOutputs(
            logprobs=policy,
            entropy=scatter(part, "entropy", batch, first=first),
            log_partition=policy * 2 + 1,
        )
        out = algorithm.loss(outputs, batch, shared)
        out.loss.backward()
        loss += float(out.loss.detach())
        gradients += gather(policy.grad, part, batch, first=first)
        measured.append(out.metrics)
    return loss, gradients, metrics.results(metrics.merge(measured))


def _grouped(batch: TokenBatch) -> TokenBatch:
    ids = batch.sequence_ids
    return replace(batch, group_ids=torch.where(ids < 0, ids, ids // 2))
