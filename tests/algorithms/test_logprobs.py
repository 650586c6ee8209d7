from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms.head import Head
from rlserve.algorithms.logprobs import policy_outputs
from tests.support.models.token_batches import packed, padded, random_samples

VOCABULARY = 9


def by_hand(logits, batch):
    """One token at a time."""
    logprobs = torch.zeros(batch.token_ids.shape, dtype=torch.float64)
    entropy = torch.zeros_like(logprobs)
    for b in range(logits.shape[0]):
        for t in range(1, logits.shape[1]):
            if batch.position_ids[b, t] == 0 or batch.sequence_ids[b, t] < 0:
                continue
            divisor = 1.0 if batch.temperatures is None else batch.temperatures[b, t]
            p = torch.softmax(logits[b, t - 1].double() / divisor, -1)
            logprobs[b, t] = p[batch.token_ids[b, t]].log()
            entropy[b, t] = -(p * p.log()).sum()
    return logprobs, entropy


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    heated=st.booleans(),
    work_bytes=st.sampled_from([1, 500, 2**20]),
    pack=st.booleans(),
)
def test_log_probabilities_and_entropy_oracle_one_token_at_a_time(lengths, seed, heated, work_bytes, pack):
    batch = (packed if pack else padded)(random_samples(lengths, seed))
    if heated:  # each token at its own
        batch = replace(batch, temperatures=0.3 + 2 * torch.rand(batch.token_ids.shape, dtype=torch.float64))
    logits = torch.randn(*batch.token_ids.shape, VOCABULARY, dtype=torch.float64)
    out = policy_outputs(logits, batch, head=Head(work_bytes=work_bytes))
    logprobs, entropy = by_hand(logits, batch)
    torch.testing.assert_close(out.logprobs, logprobs)
    torch.testing.assert_close(out.entropy, entropy)


def test_the_first_token_of_a_packed_sequence_has_no_log_probability():
    batch = packed(random_samples([3, 4], 0))
    logits = torch.randn(*batch.token_ids.shape, VOCABULARY)
    out = policy_outputs(logits, batch)
    assert (out.logprobs[batch.position_ids == 0] == 0).all()
    assert (out.logprobs[batch.position_ids > 0] < 0).all()


def test_softmax_is_in_float32_when_logits_are_bfloat16():
    batch = padded(random_samples([6], 0))
    logits = torch.randn(*batch.token_ids.shape, VOCABULARY).bfloat16()
    out = policy_outputs(logits, batch)
    assert out.logprobs.dtype == torch.float32
    logprobs, _ = by_hand(logits, batch)
    torch.testing.assert_close(out.logprobs.double(), logprobs, atol=1e-6, rtol=1e-6)


def test_entropy_is_absent_unless_needed_and_has_no_gradient_unless_asked_for():
    batch = padded(random_samples([3], 0))
    logits = torch.randn(*batch.token_ids.shape, VOCABULARY, requires_grad=True)
    assert policy_outputs(logits, batch, needs=()).entropy is None
    assert not policy_outputs(logits, batch, needs=("entropy",)).entropy.requires_grad
    assert policy_outputs(logits, batch, needs=("entropy_gradient",)).entropy.requires_grad


def test_a_teachers_top_is_scored_at_the_teachers_temperature_whatever_the_tokens_were_sampled_at():
    batch = padded(random_samples([3, 4], 0))
    logits = torch.randn(*batch.token_ids.shape, VOCABULARY, dtype=torch.float64)
    top = torch.randint(0, VOCABULARY, (*batch.token_ids.shape, 2))
    warm = torch.full(batch.token_ids.shape, 2.0, dtype=torch.float64)
    expected = (logits / 2).log_softmax(-1).roll(1, dims=1).gather(-1, top)
    seen = (batch.position_ids > 0) & (batch.sequence_ids >= 0)
    for sampled_at in (None, warm, warm / 4):
        asked = replace(batch, teacher_top_ids=top, teacher_temperature=2.0, temperatures=sampled_at)
        out = policy_outputs(logits, asked, needs=("top_logprobs",))
        torch.testing.assert_close(out.top_logprobs[seen], expected[seen])
