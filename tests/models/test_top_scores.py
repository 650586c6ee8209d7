"""A teacher's scores in chunks against whole logits, with columns that are padding."""

import pytest
import torch

from rlserve.algorithms.head import Head
from rlserve.models.top_scores import top_scores

FLOAT32 = {"rtol": 1e-5, "atol": 2e-6}


@pytest.mark.parametrize("work_bytes", [1, 2**20])
@pytest.mark.parametrize("k", [0, 3, 9])
def test_chunks_give_what_whole_logits_give_oracle(work_bytes: int, k: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 4), torch.randn(11, 4)
    ids = torch.randint(0, 9, (6,))
    head = Head(weight=weight, softcap=2.0, work_bytes=work_bytes)
    logprobs, top_ids, top, rest = top_scores(hidden, head, ids, k=k, temperature=0.7, num_tokens=9)
    p = (2 * torch.tanh(hidden.double() @ weight.double().T / 2) / 0.7).softmax(-1)
    torch.testing.assert_close(logprobs.double(), p.gather(-1, ids[:, None])[:, 0].log(), **FLOAT32)
    expected = p[:, :9].topk(k, dim=-1)
    assert top_ids.equal(expected.indices)
    torch.testing.assert_close(top.double(), expected.values.log(), **FLOAT32)
    if k:
        torch.testing.assert_close(rest.double().exp(), 1 - expected.values.sum(-1), **FLOAT32)


def test_no_token_has_no_scores() -> None:
    head, ids = Head(weight=torch.randn(11, 4)), torch.zeros(0, dtype=torch.int64)
    none = top_scores(torch.randn(0, 4), head, ids, k=2, temperature=1.0)
    assert [tuple(each.shape) for each in none] == [(0,), (0, 2), (0, 2), (0,)]
