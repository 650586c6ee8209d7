"""Distillation losses against TRL's own code, exact sums and worked numbers, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms.batch import Denominator, PolicyOutputs
from rlserve.algorithms.distill import Distill
from rlserve.algorithms.divergences import buckets, generalized_jsd, kl, log_tail
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.algorithms.masked import denominator
from rlserve.config.algorithms.distillation import DistillConfig
from tests.support.models.token_batches import gather, padded, random_samples, scatter

SEEDS = st.integers(0, 2**31)
MANY = settings(max_examples=40, deadline=None)
P = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.float64).log()
Q = torch.tensor([0.3, 0.1, 0.1, 0.2, 0.3], dtype=torch.float64).log()
P3 = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
Q3 = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64).log()


def taught(lengths, seed, vocabulary, k, temperature=1.0):
    """A padded batch whose teacher is a random [B, T, V] tensor, and student logits of the same shape."""
    samples = random_samples(lengths, seed)
    batch = padded(samples)
    student = torch.randn(*batch.token_ids.shape, vocabulary, dtype=torch.float64)
    teacher = torch.randn(*batch.token_ids.shape, vocabulary, dtype=torch.float64)
    moved = (teacher / temperature).log_softmax(-1).roll(1, dims=1)
    top = moved.topk(k, dim=-1)
    tail = log_tail(top.values) if k < vocabulary else torch.full(batch.token_ids.shape, -torch.inf).double()
    batch = replace(
        batch,
        token_ids=batch.token_ids % vocabulary,
        teacher_mask=batch.loss_mask,
        teacher_logprobs=torch.zeros_like(batch.loss_mask),
        teacher_top_ids=top.indices,
        teacher_top_logprobs=top.values,
        teacher_log_tail=tail,
        teacher_temperature=temperature,
    )
    return samples, batch, student, teacher


@MANY
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=SEEDS,
    vocabulary=st.integers(2, 9),
    beta=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    temperature=st.sampled_from([0.7, 1.0, 2.0]),
)
def test_divergence_over_the_whole_vocabulary_oracle_trl(lengths, seed, vocabulary, beta, temperature):
    from trl.experimental.gkd import GKDTrainer

    vocabulary = max(vocabulary, 9)
    samples, batch, student, teacher = taught(lengths, seed, vocabulary, vocabulary, temperature)
    ours, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
    config = DistillConfig(estimator="top_k", beta=beta, normalize=False, temperature=temperature)
    outputs = policy_outputs(ours, batch, needs=("top_logprobs",))
    shared = denominator([batch], num_sequences=len(samples))
    loss = Distill(config).loss(outputs, batch, shared).loss
    loss.backward()
    labels = torch.where(batch.loss_mask > 0, batch.token_ids, -100)[:, 1:]
    expected = temperature**2 * GKDTrainer.generalized_jsd_loss(
        theirs[:, :-1],
        teacher[:, :-1],
        labels=labels,
        beta=beta,
        temperature=temperature,
        num_items_in_batch=batch.loss_mask.sum(),
    )
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=1e-7)


def test_top_k_with_tail_has_the_worked_values():
    for k, reverse, forward in ((1, 0.082, 0.087), (2, 0.280, 0.266), (3, 0.519, 0.384), (4, 0.615, 0.403)):
        top = P.topk(k)
        q, p = buckets(Q[top.indices], top.values, log_tail(top.values))
        assert float(kl(q, p)) == pytest.approx(reverse, abs=1e-3)
        assert float(kl(p, q)) == pytest.approx(forward, abs=1e-3)
    assert float(kl(P, Q)) == pytest.approx(0.4027, abs=1e-4)
    assert float(kl(Q, P)) == pytest.approx(0.6153, abs=1e-4)


@MANY
@given(seed=SEEDS, k=st.integers(1, 7), beta=st.floats(0, 1))
def test_top_k_with_tail_is_a_lower_bound_that_grows_with_k(seed, k, beta):
    torch.manual_seed(seed)
    p, q = torch.randn(2, 8, dtype=torch.float64).log_softmax(-1)
    top = p.topk(8)
    values = []
    for count in (k, k + 1):
        kept = top.values[:count]
        tail = log_tail(kept) if count < 8 else torch.tensor(-torch.inf)
        values.append(float(generalized_jsd(*buckets(q[top.indices[:count]], kept, tail), beta)))
    exact = float(generalized_jsd(q, p, beta))
    assert values[0] <= values[1] + 1e-6 <= exact + 2e-6


def test_the_generalised_divergence_has_its_limits_and_its_jump():
    values = {0.001: 0.00018, 0.0: 0.1838, 0.999: 0.00019, 1.0: 0.1920, 0.5: 0.0462}
    for beta, expected in values.items():
        assert float(generalized_jsd(Q3, P3, beta)) == pytest.approx(expected, abs=2e-5 if expected < 0.01 else 1e-4)
    for beta, expected in {0.1: 0.1836, 0.5: 0.1848, 0.9: 0.190, 1e-6: 0.1838, 1 - 1e-6: 0.1920}.items():
        assert float(generalized_jsd(Q3, P3, beta, normalize=True)) == pytest.approx(expected, abs=5e-4)


def test_offline_distillation_oracle_closed_form():
    """Half of T^2 KL and half of cross-entropy, at T = 2."""
    samples = random_samples([1], 0)
    batch = padded(samples)
    teacher, student = torch.tensor([3.0, 1, 0]).double(), torch.tensor([2.0, 1, 0]).double()
    top = (teacher / 2).log_softmax(-1).expand(1, 3, 3)
    batch = replace(
        batch,
        token_ids=torch.ones(1, 3, dtype=torch.long),
        teacher_mask=batch.loss_mask,
        teacher_logprobs=torch.zeros_like(batch.loss_mask),
        teacher_top_ids=torch.arange(3).expand(1, 3, 3),
        teacher_top_logprobs=top,
        teacher_log_tail=torch.full((1, 3), -torch.inf),
        teacher_temperature=2.0,
    )
    config = DistillConfig(estimator="top_k", beta=0.0, temperature=2.0, coefficient=0.5, cross_entropy=0.5)
    outputs = policy_outputs(student.expand(1, 3, 3), batch, needs=("top_logprobs",))
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 0.5 * 4 * float((p * (p / q).log()).sum()) - 0.5 * float(student.log_softmax(-1)[1])
    loss = Distill(config).loss(outputs, batch, denominator([batch], num_sequences=1)).loss
    assert float(loss) == pytest.approx(expected)


def expected_gradient(sampler, config):
    """Gradient by the student's logits, with each of five outcomes drawn as often as ``sampler`` does."""
    logits = Q.clone().requires_grad_()
    total = 0.0
    for token, probability in enumerate(sampler.exp().tolist()):
        batch = replace(
            padded(random_samples([1], 0)),
            behavior_logprobs=torch.tensor([[0, 0, float(sampler[token])]], dtype=torch.float64),
        )
        batch = replace(
            batch,
            teacher_mask=batch.loss_mask,
            teacher_logprobs=batch.loss_mask * P[token],
        )
        logprobs = torch.zeros(1, 3, dtype=torch.float64)
        logprobs = logprobs + batch.loss_mask * logits.log_softmax(-1)[token]
        one = Denominator(tokens=1, sequences=1, tokens_per_sequence=torch.ones(1), teacher_tokens=1)
        total = total + probability * Distill(config).loss(PolicyOutputs(logprobs=logprobs), batch, one).loss
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


def exact_reverse_gradient():
    logits = Q.clone().requires_grad_()
    q = logits.log_softmax(-1)
    (gradient,) = torch.autograd.grad(kl(q, P), logits)
    return gradient


@pytest.mark.parametrize("difference", ["policy", "behavior"])
def test_sampled_token_gradient_oracle_the_exact_reverse_divergence(difference):
    gradient = expected_gradient(Q, DistillConfig(difference=difference))
    torch.testing.assert_close(gradient, exact_reverse_gradient())


def test_sampled_token_gradient_on_stale_samples_is_exact_until_the_ratio_is_cut():
    stale = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64).log()
    torch.testing.assert_close(expected_gradient(stale, DistillConfig()), exact_reverse_gradient())
    cut = expected_gradient(stale, DistillConfig(max_ratio=1.1))
    assert not torch.allclose(cut, exact_reverse_gradient())


@MANY
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=SEEDS)
def test_spans_of_one_token_are_the_sampled_token_loss(lengths, seed):
    samples = random_samples(lengths, seed)
    batch = padded(samples)
    batch = replace(batch, teacher_mask=batch.loss_mask, teacher_logprobs=scatter(samples, "reference", batch))
    each = torch.where(batch.loss_mask > 0, batch.loss_mask.flatten().cumsum(0).view_as(batch.loss_mask) - 1, -1.0)
    results = []
    for spans in (None, each.long()):
        policy = scatter(samples, "policy", batch).requires_grad_()
        given = replace(batch, span_ids=spans)
        out = Distill(DistillConfig()).loss(
            PolicyOutputs(logprobs=policy), given, denominator([given], num_sequences=9)
        )
        out.loss.backward()
        results.append((float(out.loss.detach()), gather(policy.grad, samples, batch)))
    assert results[0][0] == pytest.approx(results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b)


def test_a_span_is_one_action_as_in_the_worked_example():
    """Student he|llo| wor|ld against teacher hello| world: every token carries its whole span's advantage."""
    samples = random_samples([4], 0)
    samples[0].policy = samples[0].behavior = torch.tensor([-0.5, -0.2, -1.0, -0.1], dtype=torch.float64)
    batch = padded(samples)
    teacher = torch.tensor([[0, 0, -0.4, 0, -1.3, 0]], dtype=torch.float64)
    spans = torch.tensor([[-1, -1, 0, 0, 1, 1]])
    batch = replace(batch, teacher_mask=batch.loss_mask, teacher_logprobs=teacher, span_ids=spans)
    policy = scatter(samples, "policy", batch).requires_grad_()
    shared = denominator([batch], num_sequences=1)
    Distill(DistillConfig()).loss(PolicyOutputs(logprobs=policy), batch, shared).loss.backward()
    assert (-4 * policy.grad[0, 2:]).tolist() == pytest.approx([0.3, 0.3, -0.2, -0.2])


def test_span_gradient_oracle_the_exact_divergence_of_texts():
    """Two student tokens spell what the teacher writes as one: all pairs of tokens, weighted exactly."""
    torch.manual_seed(0)
    first = torch.randn(2, dtype=torch.float64).requires_grad_()
    second = torch.randn(2, 2, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(4, dtype=torch.float64).log_softmax(-1).view(2, 2)
    joint = first.log_softmax(-1)[:, None] + second.log_softmax(-1)
    exact = torch.autograd.grad((joint.exp() * (joint - teacher)).sum(), (first, second))
    total = 0.0
    for a in range(2):
        for b in range(2):
            logprobs = torch.stack([first.log_softmax(-1)[a], second.log_softmax(-1)[a, b]])
            samples = random_samples([2], 0)
            samples[0].behavior = logprobs.detach()
            batch = padded(samples)
            spread = torch.tensor([[0.0, 0, 1, 0]], dtype=torch.float64)
            batch = replace(
                batch,
                teacher_mask=batch.loss_mask,
                teacher_logprobs=spread * teacher[a, b],
                span_ids=torch.tensor([[-1, -1, 0, 0]]),
            )
            policy = torch.cat([torch.zeros(2, dtype=torch.float64), logprobs])[None]
            one = Denominator(tokens=1, sequences=1, tokens_per_sequence=torch.ones(1), teacher_tokens=1)
            loss = Distill(DistillConfig()).loss(PolicyOutputs(logprobs=policy), batch, one).loss
            total = total + float(logprobs.sum().exp()) * loss
    for ours, theirs in zip(torch.autograd.grad(total, (first, second)), exact, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_log_of_a_tail_oracle_the_rest_of_the_vocabulary():
    top = P.topk(2).values
    assert float(log_tail(top)) == pytest.approx(math.log(0.25))
