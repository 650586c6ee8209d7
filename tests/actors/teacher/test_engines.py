"""Both engines say what a plain forward pass of Hugging Face says, batched or not."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlserve.actors.teacher.forward import ForwardEngine
from rlserve.actors.teacher.scoring import Query, Scores
from rlserve.actors.teacher.vllm_engine import VllmScoringEngine, scores_of
from rlserve.engines.base import EngineOptions
from rlserve.errors import InvalidRequest, StateCorrupt
from tests.support.models.tiny_policies import VOCABULARY, tiny_model


def query(length: int, *, seed: int = 0, first: int = 3, k: int = 5, temperature: float = 1.0) -> Query:
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, length)
    return Query(token_ids=ids, first=first, count=length - first, k=k, temperature=temperature)


@torch.no_grad()
def check_against_plain_forward(model: Any, asked: Query, scores: Scores) -> None:
    """In float64, from the definition."""
    logits = model(torch.from_numpy(asked.token_ids)[None]).logits[0].double()
    expected = (logits[asked.first - 1 : -1] / asked.temperature).log_softmax(-1)
    tokens = torch.from_numpy(asked.token_ids[asked.first :])
    np.testing.assert_allclose(scores.logprobs, expected.gather(-1, tokens[:, None])[:, 0], atol=1e-4)
    top = expected.topk(asked.k, dim=-1)
    np.testing.assert_allclose(scores.top_logprobs, top.values, atol=1e-4)
    assert (scores.top_ids == top.indices.numpy()).mean() > 0.99
    mass = 1 - top.values.exp().sum(-1)
    np.testing.assert_allclose(np.exp(scores.log_tail), mass, atol=1e-4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    path = tmp_path_factory.mktemp("teacher")
    model = tiny_model("qwen3", tied=True)
    model.save_pretrained(path)
    return str(path), model


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
async def test_a_batch_of_unequal_lengths_is_scored_as_each_alone(
    checkpoint: tuple[str, Any], temperature: float, packs: bool
) -> None:
    path, model = checkpoint
    engine = ForwardEngine(path, dtype="float32", packs=packs)
    kinds = ((40, 5), (7, 1), (23, VOCABULARY - 1), (12, 5))
    asked = [query(n, seed=n, k=k, temperature=temperature) for n, k in kinds]
    answers = await engine.score(asked)
    await engine.close()
    for one, scores in zip(asked, answers, strict=True):
        check_against_plain_forward(model, one, scores)


async def test_the_whole_vocabulary_leaves_no_tail_and_k_0_no_top(checkpoint: tuple[str, Any]) -> None:
    engine = ForwardEngine(checkpoint[0], dtype="float32")
    whole, none = await engine.score([query(9, k=VOCABULARY + 7), query(9, k=0)])
    await engine.close()
    assert whole.top_ids.shape[1] == VOCABULARY
    assert np.isneginf(whole.log_tail).all()
    assert none.top_ids.shape == (6, 0)
    assert none.log_tail.shape == (0,)


def test_padding_is_dropped_from_vllms_tops_and_a_short_answer_is_refused() -> None:
    from vllm.logprobs import FlatLogprobs

    flat = FlatLogprobs()
    flat.append(None)  # nothing predicts the first token
    for ids in ([7, 1, 99, 7], [5, 98, 97, 5], [2, 1, 2, 99]):  # the token's own, then the top 3; 97 and on are padding
        flat.append_fast(ids, [-0.5, -0.25, -0.5, -2.0], [1, 1, 2, 3], [None] * 4)
    asked = Query(token_ids=np.array([0, 7, 5, 2]), first=1, count=3, k=3)
    scores = scores_of(flat, asked, num_tokens=97)
    assert scores.top_ids.tolist() == [[1], [5], [1]]
    assert scores.top_logprobs.tolist() == [[-0.25], [-2.0], [-0.25]]
    assert scores.logprobs.tolist() == [-0.5] * 3
    with pytest.raises(StateCorrupt, match="12 entries for 3 tokens with k = 2"):
        scores_of(flat, replace(asked, k=2), num_tokens=97)


@pytest.mark.slow
def test_vllm_says_the_same(checkpoint: tuple[str, Any]) -> None:
    path, model = checkpoint

    async def ask() -> tuple[list[Query], list[Scores]]:
        options = EngineOptions(model_path=path, dtype="float32", max_length=128, kv_cache_bytes=2**26)
        engine = await VllmScoringEngine.start(options, max_k=8)
        try:
            with pytest.raises(InvalidRequest, match="temperature: is 2"):
                engine.check(query(9, temperature=2.0))
            asked = [query(n, seed=n, k=k) for n, k in ((40, 5), (7, 1), (23, 8), (23, 0))]
            return asked, await engine.score(asked)
        finally:
            await engine.close()

    asked, answers = asyncio.run(ask())
    for one, scores in zip(asked[:3], answers[:3], strict=True):
        check_against_plain_forward(model, one, scores)
    assert answers[3].top_ids.shape == (20, 0)
