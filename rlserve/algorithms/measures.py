"""Metrics that every loss on sampled tokens reports. Shapes are ``[B, T]``."""

from torch import Tensor

from rlserve.algorithms import metrics, ratios
from rlserve.algorithms.batch import Metric, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import num_sequences, sequence_sum


def off_policy(outputs: PolicyOutputs, batch: TokenBatch) -> dict[str, Metric]:
    """How far the policy in training is from the one that sampled, and the tokens' lag and entropy."""
    mask = batch.loss_mask if batch.was_given is None else batch.loss_mask * ~batch.was_given
    log_ratio = ratios.log_ratio(outputs.logprobs.detach(), batch.behavior_logprobs, mask)
    ratio = log_ratio.exp()
    measured = {
        "ratio_mean": metrics.mean(ratio, mask),
        "ratio_max": metrics.maximum(ratio, mask),
        "ratio_min": metrics.minimum(ratio, mask),
        "ess": metrics.effective_sample_size(ratio, mask),
        "ess_sequence": metrics.effective_sample_size(*_sequence_ratio(batch, log_ratio, mask)),
        "mismatch_kl": metrics.mean(ratios.k3(log_ratio), mask),
        "lag_mean": metrics.mean(batch.lag.to(mask.dtype), mask),
        "lag_max": metrics.maximum(batch.lag.to(mask.dtype), mask),
        "tokens": metrics.total(batch.loss_mask),
    }
    if outputs.entropy is not None:
        measured["entropy"] = metrics.mean(outputs.entropy, batch.loss_mask)
    return measured


def advantages(batch: TokenBatch) -> dict[str, Metric]:
    """Spread of the advantages over trainable tokens."""
    mask = batch.loss_mask
    return {
        "advantage_mean": metrics.mean(batch.advantages, mask),
        "advantage_std": metrics.standard_deviation(batch.advantages, mask),
        "advantage_max": metrics.maximum(batch.advantages, mask),
        "advantage_min": metrics.minimum(batch.advantages, mask),
    }


def _sequence_ratio(batch: TokenBatch, log_ratio: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Product of the ratios of each sequence's tokens, and whether the sequence is here; ``[N]`` each."""
    size = num_sequences(batch)
    logs = sequence_sum(log_ratio, batch.sequence_ids, size)
    here = sequence_sum(mask, batch.sequence_ids, size) > 0
    return logs.clamp(-ratios.MAX_LOG_RATIO, ratios.MAX_LOG_RATIO).exp(), here.to(log_ratio.dtype)
