"""Alignment and merged distributions against TRL's GOLD, and against the text itself."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms.divergences import generalized_jsd
from rlserve.errors import InvalidRequest
from rlserve.tokens.alignment import Span, align, end_offsets, span_scores
from tests.oracles import uld

TEXTS = st.text(alphabet="ab \u00e9\u4f60\U0001f600", min_size=1, max_size=20)
CUTS = st.lists(st.integers(0, 60), max_size=25)


def pieces(data, cuts):
    """The bytes cut anywhere, also inside a character."""
    places = [0, *sorted({c for c in cuts if 0 < c < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def offsets(ends):
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@settings(max_examples=200, deadline=None)
@given(TEXTS, CUTS, CUTS)
def test_spans_oracle_trl(text, student_cuts, teacher_cuts):
    from trl.experimental.gold.gold_trainer import ULDLoss

    data = text.encode()
    student, teacher = pieces(data, student_cuts), pieces(data, teacher_cuts)
    spans = align(end_offsets(student), end_offsets(teacher))
    expected = ULDLoss._align_by_byte_offsets(offsets(end_offsets(student)), offsets(end_offsets(teacher)))
    assert [list(range(s.student_start, s.student_stop)) for s in spans] == expected[0]
    assert [list(range(s.teacher_start, s.teacher_stop)) for s in spans] == expected[1]


@settings(max_examples=100, deadline=None)
@given(TEXTS, CUTS, CUTS)
def test_every_token_is_in_one_span_and_both_sides_of_a_span_spell_the_same(text, student_cuts, teacher_cuts):
    data = text.encode()
    student, teacher = pieces(data, student_cuts), pieces(data, teacher_cuts)
    spans = align(end_offsets(student), end_offsets(teacher))
    assert [i for s in spans for i in range(s.student_start, s.student_stop)] == list(range(len(student)))
    assert [i for s in spans for i in range(s.teacher_start, s.teacher_stop)] == list(range(len(teacher)))
    for s in spans:
        left = b"".join(student[s.student_start : s.student_stop])
        assert left == b"".join(teacher[s.teacher_start : s.teacher_stop])
        assert left
    scores = span_scores(spans, [-1.0 - i for i in range(len(teacher))], len(student))
    assert float(scores.logprobs.sum()) == pytest.approx(sum(-1.0 - i for i in range(len(teacher))))
    assert (scores.span_ids >= 0).all()


def test_equal_tokenizers_give_spans_of_one_token():
    assert align([2, 5, 9], [2, 5, 9]) == [Span(0, 1, 0, 1), Span(1, 2, 1, 2), Span(2, 3, 2, 3)]


def test_what_follows_the_last_shared_boundary_is_in_no_span():
    spans = align([2, 5, 7], [2, 6])
    assert spans == [Span(0, 1, 0, 1)]
    assert span_scores(spans, [-0.5, -9.0], 3).span_ids.tolist() == [0, -1, -1]


def test_a_token_without_text_joins_the_span_that_closes_after_it():
    assert align([2, 2, 5], [2, 5]) == [Span(0, 1, 0, 1), Span(1, 3, 1, 2)]


def test_offsets_that_decrease_are_refused():
    with pytest.raises(InvalidRequest, match="teacher_ends: offsets decrease"):
        align([1, 2], [2, 1])


def gold(student_ids, teacher_ids, mapping):
    from trl.experimental.gold.gold_trainer import ULDLoss

    loss = ULDLoss.__new__(ULDLoss)
    loss.token_merge_strategy = "bayesian"
    loss.beta = 0.5
    loss.hybrid_matched_weight = None
    loss._teacher_matched_ids = set(mapping)
    loss.mapping_tensor = torch.full((max(mapping) + 1,), -1)
    for teacher_id, student_id in mapping.items():
        loss.mapping_tensor[teacher_id] = student_id
    return loss


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), shared=st.integers(1, 4))
def test_merged_distributions_and_their_loss_oracle_trl(seed, shared):
    torch.manual_seed(seed)
    student = torch.randn(5, 7, dtype=torch.float64).softmax(-1)
    teacher = torch.randn(4, 6, dtype=torch.float64).softmax(-1)
    student_ids, teacher_ids = torch.randint(0, 7, (5,)), torch.randint(0, 6, (4,))
    spans = align([1, 3, 4, 6, 9], [3, 4, 8, 9])
    mapping = {t: (t + 2) % 7 for t in range(shared)}
    theirs = gold(student_ids, teacher_ids, mapping)
    leaf, same = student.clone().requires_grad_(), student.clone().requires_grad_()
    merged = [
        uld.merge_spans(leaf, student_ids, [(s.student_start, s.student_stop) for s in spans]),
        uld.merge_spans(teacher, teacher_ids, [(s.teacher_start, s.teacher_stop) for s in spans]),
    ]
    expected = [
        theirs._merge_probabilities_with_alignment_groups(
            same, [list(range(s.student_start, s.student_stop)) for s in spans], student_ids.tolist()
        ),
        theirs._merge_probabilities_with_alignment_groups(
            teacher, [list(range(s.teacher_start, s.teacher_stop)) for s in spans], teacher_ids.tolist()
        ),
    ]
    for a, b in zip(merged, expected, strict=True):
        torch.testing.assert_close(a, b)
    ids = uld.Vocabularies(
        student_ids=torch.tensor([mapping[t] for t in sorted(mapping)]), teacher_ids=torch.tensor(sorted(mapping))
    )
    ours, reference = uld.hybrid_loss(*merged, ids), theirs._compute_hybrid_uld_loss(*expected)
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-6)
    ours.backward()
    reference.backward()
    torch.testing.assert_close(leaf.grad, same.grad, atol=1e-6, rtol=1e-6)


def test_one_vocabulary_on_both_sides_gives_the_plain_divergence():
    torch.manual_seed(0)
    q, p = torch.randn(2, 3, 6, dtype=torch.float64).softmax(-1)
    every = uld.Vocabularies(student_ids=torch.arange(6), teacher_ids=torch.arange(6))
    tokens = torch.zeros(3, dtype=torch.long)
    ones = [(i, i + 1) for i in range(3)]
    merged = uld.hybrid_loss(uld.merge_spans(q, tokens, ones), uld.merge_spans(p, tokens, ones), every)
    assert float(merged) == pytest.approx(float(generalized_jsd(q.log(), p.log(), 0.5).mean()))


def test_the_merged_row_is_the_joint_probability_of_what_was_written():
    rows = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    merged = uld.merge_spans(rows, torch.tensor([1, 0]), [(0, 2)])
    assert merged.tolist() == [[0.125, 0.375]]
