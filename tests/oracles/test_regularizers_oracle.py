"""Divergence estimators on a three-way softmax, where expectations are exact sums."""

import pytest
import torch

from rlserve.algorithms.regularizers import kl, z_loss

POLICY = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def expected(estimator):
    """(mean estimate, mean gradient by logits) with each outcome drawn as often as the policy does."""
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(-1)
    estimates = kl(logprobs - REFERENCE.log(), estimator, logprobs - POLICY.log())
    value = (POLICY * estimates).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return float(value.detach()), gradient.tolist()


def exact(forward):
    logits = POLICY.log().requires_grad_()
    p = logits.softmax(-1)
    value = (REFERENCE * (REFERENCE.log() - p.log())).sum() if forward else (p * (p.log() - REFERENCE.log())).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return float(value.detach()), gradient.tolist()


def test_values_of_the_estimators_oracle_exact_divergence():
    assert exact(forward=False)[0] == pytest.approx(0.08512, abs=1e-5)
    assert expected("k1")[0] == pytest.approx(0.08512, abs=1e-5)
    assert expected("k2")[0] == pytest.approx(0.08009, abs=1e-5)
    assert expected("k3")[0] == pytest.approx(0.08512, abs=1e-5)


def test_gradients_of_the_estimators_oracle_autograd_of_the_exact_divergence():
    assert expected("k1")[1] == pytest.approx([0, 0, 0], abs=1e-12)
    assert expected("k2")[1] == pytest.approx(exact(forward=False)[1])
    assert expected("k3_unbiased")[1] == pytest.approx(exact(forward=False)[1])
    assert expected("k3")[1] == pytest.approx(exact(forward=True)[1])
    assert exact(forward=False)[1] == pytest.approx([0.1759, -0.0981, -0.0778], abs=1e-4)
    assert exact(forward=True)[1] == pytest.approx([0.2, -0.1, -0.1])


def test_k3_unbiased_corrects_for_stale_samples():
    """Samples from another policy: weighted by the ratio, value and gradient stay those of the divergence."""
    behavior = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(-1)
    estimates = kl(logprobs - REFERENCE.log(), "k3_unbiased", logprobs - behavior.log())
    value = (behavior * estimates).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(exact(forward=False)[0])
    assert gradient.tolist() == pytest.approx(exact(forward=False)[1])


def test_single_tokens_have_the_worked_values():
    for policy, reference, k1, k2, k3 in ((0.5, 0.4, 0.2231, 0.0249, 0.0231), (0.4, 0.5, -0.2231, 0.0249, 0.0269)):
        d = torch.tensor(policy).log() - torch.tensor(reference).log()
        for name, value in (("k1", k1), ("k2", k2), ("k3", k3)):
            assert float(kl(d, name, d)) == pytest.approx(value, abs=1e-4)


def test_the_log_partition_penalty_sees_a_shift_that_the_softmax_does_not():
    logits = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    one = torch.ones(())
    assert 1e-4 * float(z_loss(logits.logsumexp(-1), one)) == pytest.approx(5.80e-4, abs=1e-6)
    assert 1e-4 * float(z_loss((logits + 10).logsumexp(-1), one)) == pytest.approx(0.0154, abs=1e-4)
