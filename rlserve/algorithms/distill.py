"""Distillation from served teachers: on the policy's own samples, or on given text.

* ``sampled``: a policy gradient, -c A log q with A = log p - log q of the sampled token (a constant) and c the
  importance ratio cut at ``max_ratio``. Unbiased for the gradient of the token's reverse divergence, also on
  stale samples as long as c is not cut; noisy.
* ``top_k``: the divergence on the teacher's top k and the tail. Exact for k = vocabulary; otherwise a lower
  bound, and lowest for the reverse divergence where the student's mass lies outside the teacher's top k.

Across tokenizers, tokens between two common text boundaries are one span, and the span is the action: its
log-probability is the sum of its tokens', so all of them carry the span's A and its ratio in full. The top k of a
span is that of its last token, times the probability of its beginning; see ``divergences``.

Means are over the tokens that the teacher scored, of the whole optimizer batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlserve.algorithms import divergences, metrics, ratios
from rlserve.algorithms.batch import (
    Assignment,
    Denominator,
    GroupOutcome,
    LossOutput,
    PolicyOutputs,
    TokenBatch,
    TokenLoss,
)
from rlserve.algorithms.divergences import over_spans
from rlserve.algorithms.masked import masked_sum
from rlserve.config.algorithms.distillation import DistillConfig
from rlserve.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Distill:
    """Registered as ``distill``."""

    config: DistillConfig

    @property
    def needs(self) -> frozenset[str]:
        """The teacher's scores, and the policy's log-probabilities of the teacher's top k."""
        top = {"teacher_top_ids", "teacher_top_logprobs", "top_logprobs", "unshared_logprobs", "log_unshared"}
        return frozenset({"entropy", "teacher_logprobs"} | (top if self.config.estimator == "top_k" else set()))

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """``"no_teacher"`` when no trajectory was scored by a teacher."""
        return None if self._taught(outcome).any() else "no_teacher"

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """One assignment for each trajectory that a teacher scored."""
        return [
            Assignment(group=group, trajectory_index=index)
            for group, outcome in enumerate(outcomes)
            for index in torch.nonzero(self._taught(outcome)).flatten().tolist()
        ]

    def _taught(self, outcome: GroupOutcome) -> Tensor:
        """``[G]`` trajectories to distil on. A policy gradient needs the behaviour policy: own samples only."""
        if outcome.taught is None:
            return torch.zeros_like(outcome.scored)
        # A given completion has no behaviour log-probabilities, so its importance ratio is unknown.
        if self.config.estimator == "sampled" and outcome.given is not None:
            return outcome.taught & ~outcome.given
        return outcome.taught

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """This micro-batch's share: the mean token loss, and the mean cross-entropy when it has a weight."""
        if batch.teacher_logprobs is None or batch.teacher_mask is None:
            raise InvalidRequest(
                "teacher_logprobs: missing; distillation needs a teacher's scores in every micro-batch"
            )
        config, mask = self.config, batch.teacher_mask
        # [B, T], over the whole optimizer batch. At least 1: in a mixture a batch may have no token that a teacher
        # scored.
        weights = mask / max(denominator.teacher_tokens, 1.0)
        token_loss, measured = self.token_loss(outputs, batch)
        total = config.coefficient * masked_sum(token_loss, weights)
        if config.cross_entropy:
            total = total - config.cross_entropy * masked_sum(outputs.logprobs, weights)
        # [B, T]; log q - log p on the student's samples is the k1 estimate of the reverse KL. metrics.mean detaches it.
        gap = outputs.logprobs - batch.teacher_logprobs
        return LossOutput(
            total,
            {
                **metrics.off_policy(outputs, batch),
                **measured,
                "teacher_kl_sampled": metrics.mean(gap, mask),
                "taught": metrics.total(mask),
            },
        )

    def token_loss(self, outputs: PolicyOutputs, batch: TokenBatch) -> TokenLoss:
        """The loss of each token that a teacher scored, before averaging."""
        if self.config.estimator == "sampled":
            return sampled_token_loss(outputs.logprobs, batch, self.config)
        return top_k_loss(outputs, batch, self.config)


def sampled_token_loss(logprobs: Tensor, batch: TokenBatch, config: DistillConfig) -> TokenLoss:
    """``[B, T]`` policy-gradient losses of tokens, or of the spans that they are in."""
    assert batch.teacher_logprobs is not None and batch.teacher_mask is not None
    mask = batch.teacher_mask
    own = logprobs.detach() if config.difference == "policy" else batch.behavior_logprobs  # a constant either way
    # [B, T]; outside of the mask either side may be 0 or -infinity, and a span's sum must not take it in.
    advantages = over_spans(torch.where(mask != 0, batch.teacher_logprobs - own, torch.zeros_like(own)), batch)
    log_ratio = over_spans(ratios.log_ratio(logprobs.detach(), batch.behavior_logprobs, mask), batch)
    # Again after the sum: the tokens of a span were each cut, their sum was not.
    ratio = log_ratio.clamp(max=ratios.MAX_LOG_RATIO).exp()
    weight = ratio.clamp(max=config.max_ratio)
    # Else the gradient of a token outside of the mask would be 0 times its weight, which is NaN where that is infinite.
    trained = torch.where(mask != 0, logprobs, torch.zeros_like(logprobs))
    measured = {
        "distill_advantage_mean": metrics.mean(advantages, mask),
        "distill_advantage_std": metrics.standard_deviation(advantages, mask),
        "distill_ratio_cut": metrics.mean((ratio > config.max_ratio).to(mask.dtype), mask),
    }
    return -weight * advantages * trained, measured


def top_k_loss(outputs: PolicyOutputs, batch: TokenBatch, config: DistillConfig) -> TokenLoss:
    """``[B, T]`` divergences times the squared temperature."""
    teacher, tail, student = batch.teacher_top_logprobs, batch.teacher_log_tail, outputs.top_logprobs
    if teacher is None or tail is None or student is None or batch.teacher_mask is None:
        raise InvalidRequest("teacher_top_logprobs: missing; ask the teacher for k > 0, or take estimator = 'sampled'")
    mask = batch.teacher_mask
    if batch.span_ids is None:
        q, p = divergences.buckets(student, teacher, tail)
        divergence = divergences.generalized_jsd(q, p, config.beta, normalize=config.normalize)
    else:
        divergence, q, p = divergences.span_divergence(outputs, batch, beta=config.beta, normalize=config.normalize)
    measured = {
        "teacher_divergence": metrics.mean(divergence, mask),
        # [B, T, J] without the last bucket, the tail.
        "teacher_top_mass": metrics.mean(p[..., :-1].exp().sum(-1), mask),
        "student_top_mass": metrics.mean(q[..., :-1].exp().sum(-1), mask),
    }
    # softened gradients shrink with the square of the temperature (Hinton et al., arXiv:1503.02531)
    return config.temperature**2 * divergence, measured
