"""Metrics that merge exactly, and those that every loss on sampled tokens reports.

Over micro-batches and ranks they give the value of the whole batch. An algorithm returns the same names for every
micro-batch, also for an empty one. Between ranks two plain vectors travel (``to_vectors``): one to be summed, one to be
maximised.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlserve.algorithms.batch import Metric, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import num_sequences, sequence_sum
from rlserve.algorithms.ratios import MAX_LOG_RATIO, k3, log_ratio


def mean(values: Tensor, mask: Tensor) -> Metric:
    """Mean over the masked entries."""
    return Metric(_pick(values, mask).sum(), mask.detach().sum())


def total(values: Tensor) -> Metric:
    """Sum."""
    return Metric(values.detach().sum(), merge="sum")


def maximum(values: Tensor, mask: Tensor) -> Metric:
    """Largest masked entry; -infinity when there is none."""
    return Metric(_pick(values, mask, -torch.inf).amax(), merge="max")


def minimum(values: Tensor, mask: Tensor) -> Metric:
    """Smallest masked entry; infinity when there is none."""
    return Metric(_pick(values, mask, torch.inf).amin(), merge="min")


def effective_sample_size(ratios: Tensor, mask: Tensor) -> Metric:
    """``ratios.effective_sample_size`` over the whole batch."""
    return Metric(_moments(ratios, mask), mask.detach().sum(), "ess")


def standard_deviation(values: Tensor, mask: Tensor) -> Metric:
    """Population standard deviation of the masked entries."""
    return Metric(_moments(values, mask), mask.detach().sum(), "std")


def off_policy(outputs: PolicyOutputs, batch: TokenBatch) -> dict[str, Metric]:
    """How far the policy in training is from the one that sampled, and the tokens' lag and entropy."""
    # [B, T]; a given completion has no behaviour log-probabilities: its 0 would look like a ratio of exp(l).
    mask = batch.loss_mask if batch.was_given is None else batch.loss_mask * ~batch.was_given
    logs = log_ratio(outputs.logprobs.detach(), batch.behavior_logprobs, mask)
    ratio = logs.exp()
    measured = {
        "ratio_mean": mean(ratio, mask),
        "ratio_max": maximum(ratio, mask),
        "ratio_min": minimum(ratio, mask),
        "ess": effective_sample_size(ratio, mask),
        # Over products of a sequence's ratios: it falls long before the tokens' does.
        "ess_sequence": effective_sample_size(*_sequence_ratio(batch, logs, mask)),
        "mismatch_kl": mean(k3(logs), mask),
        "lag_mean": mean(batch.lag.to(mask.dtype), mask),
        "lag_max": maximum(batch.lag.to(mask.dtype), mask),
        "tokens": total(batch.loss_mask),
    }
    if outputs.entropy is not None:
        measured["entropy"] = mean(outputs.entropy, batch.loss_mask)
    return measured


def advantages(batch: TokenBatch) -> dict[str, Metric]:
    """Spread of the advantages over trainable tokens."""
    mask = batch.loss_mask
    return {
        "advantage_mean": mean(batch.advantages, mask),
        "advantage_std": standard_deviation(batch.advantages, mask),
        "advantage_max": maximum(batch.advantages, mask),
        "advantage_min": minimum(batch.advantages, mask),
    }


def _sequence_ratio(batch: TokenBatch, logs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Product of the ratios of each sequence's tokens, and 1 for sequences of this micro-batch; ``[N]`` each."""
    size = num_sequences(batch)
    here = sequence_sum(mask, batch.sequence_ids, size) > 0
    # Cut after the sum too: each token is cut at 20, a sum of hundreds would overflow.
    total = sequence_sum(logs, batch.sequence_ids, size).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return total.exp(), here.to(logs.dtype)


def merge(parts: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """The metrics of all parts together."""
    # Every part has the same names, fillers included, so the first one's stand for all.
    merged: dict[str, Metric] = dict(parts[0])
    for part in parts[1:]:
        merged = {name: _merge(merged[name], part[name]) for name in merged}
    return merged


def results(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Final numbers; a metric without any value is left out."""
    numbers = {name: _result(metric) for name, metric in metrics.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def to_vectors(metrics: Mapping[str, Metric]) -> tuple[Tensor, Tensor]:
    """(values to sum over ranks, values to maximise over ranks), float64, in the order of names."""
    sums, extremes = [torch.zeros(0)], [torch.zeros(0)]
    # sorted: the order must be the same on every rank, whatever order its algorithm's dictionary has
    for _, metric in sorted(metrics.items()):
        if metric.merge in ("max", "min"):
            # a minimum is the maximum of the negatives: one collective for both
            extremes.append(metric.value.reshape(1) * (1 if metric.merge == "max" else -1))
        else:
            sums += [metric.value.reshape(-1)] + ([] if metric.weight is None else [metric.weight.reshape(1)])
    # float64: sums over a long batch exceed the 2^24 up to which float32 counts exactly.
    return torch.cat([s.double().cpu() for s in sums]), torch.cat([e.double().cpu() for e in extremes])


def from_vectors(like: Mapping[str, Metric], sums: Tensor, extremes: Tensor) -> dict[str, Metric]:
    """Undo ``to_vectors``; ``like`` has the same names and kinds."""
    merged: dict[str, Metric] = {}
    for name, metric in sorted(like.items()):
        if metric.merge in ("max", "min"):
            head, extremes = extremes[0], extremes[1:]
            merged[name] = Metric(head if metric.merge == "max" else -head, merge=metric.merge)
            continue
        size = metric.value.numel()
        value, sums = sums[:size].reshape(metric.value.shape), sums[size:]
        weight = None
        if metric.weight is not None:
            weight, sums = sums[0], sums[1:]
        merged[name] = Metric(value, weight, metric.merge)
    return merged


def _pick(values: Tensor, mask: Tensor, otherwise: float = 0.0) -> Tensor:
    values = values.detach()
    return torch.where(mask != 0, values, torch.full_like(values, otherwise))


def _moments(values: Tensor, mask: Tensor) -> Tensor:
    # float64: the difference of two sums of squares loses most digits in float32
    picked = _pick(values, mask).double()
    return torch.stack([picked.sum(), picked.square().sum()])


def _merge(left: Metric, right: Metric) -> Metric:
    if left.merge == "max":
        return Metric(torch.maximum(left.value, right.value), merge="max")
    if left.merge == "min":
        return Metric(torch.minimum(left.value, right.value), merge="min")
    both = left.weight is not None and right.weight is not None
    weight = left.weight + right.weight if both else None  # type: ignore[operator]
    return Metric(left.value + right.value, weight, left.merge)


def _result(metric: Metric) -> float | None:
    if metric.weight is None:
        number = float(metric.value)
        # An extreme of an empty mask.
        return number if abs(number) != float("inf") else None
    count = float(metric.weight)
    # No token of that kind in the whole batch: no number is better than a 0 in a plot.
    if count == 0:
        return None
    if metric.merge == "mean":
        return float(metric.value) / count
    first, second = metric.value.tolist()
    if metric.merge == "ess":
        return float(first * first / (count * second)) if second > 0 else None
    # rounding may leave a tiny negative variance, whose root is no number
    return float(max(second / count - (first / count) ** 2, 0.0) ** 0.5)
