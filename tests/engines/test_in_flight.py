"""What is vLLM's alone: ways to update the weights, the salt of its prefix cache, and what it holds of ended requests.

``tests/contract/test_rollout_engines.py`` has what every engine promises.
"""

from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from rlserve.engines.base import SamplingChoice
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.engines.vllm.options import sampling_parameters
from rlserve.engines.vllm.outputs import to_sample
from rlserve.records import Sample
from tests.support.models.serving_engine import Serving
from tests.support.models.tiny_policies import perturbed, replay, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CLOSE = 1e-4
PROMPTS = [(1, 2, 3, 4), (1, 2, 3, 5)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    serving = await Serving.start(
        VllmEngine, tiny_model("qwen3", tied=True), tmp_path_factory.mktemp("policy"), further={"max_logprobs": 5}
    )
    yield serving
    await serving.engine.close()


async def test_an_option_of_vllm_reaches_it(serving: Serving) -> None:
    assert serving.engine.llm.model_config.max_logprobs == 5


async def test_a_tied_qwen_is_updated_by_exchange(serving: Serving) -> None:
    assert serving.engine.method == "exchange"


async def test_a_salt_that_stays_the_same_would_find_the_prefixes_of_older_weights(serving: Serving) -> None:
    """The prefix cache is really in use, and its blocks stay: hence the salt that changes with the weights."""
    prompt = [int(t) for t in np.random.default_rng(0).integers(1, 60, size=300)]
    before = serving.engine.version
    assert serving.error(prompt, await _with_salt(serving, prompt), version=before) < CLOSE
    policy = await serving.update(perturbed(serving.versions[before], seed=11, scale=0.3))
    assert serving.error(prompt, await _with_salt(serving, prompt), version=policy.version) > 100 * CLOSE


async def _with_salt(serving: Serving, prompt: list[int]) -> Sample:
    request = {"prompt_token_ids": prompt, "cache_salt": "always the same"}
    parameters = sampling_parameters(SamplingChoice(max_new_tokens=20), 0)
    async for output in serving.engine.llm.generate(request, parameters, request_id="salt"):
        final = output.outputs[0]
    return to_sample(final, seconds=0)


async def test_vllm_holds_nothing_of_cancelled_and_finished_requests(serving: Serving) -> None:
    async with serving.running(*PROMPTS, n=4):
        assert serving.engine.llm.get_num_unfinished_requests() == 8
    await serving.sample([1, 9], tokens=4)
    assert serving.engine.llm.get_num_unfinished_requests() == 0
    assert not serving.engine.llm.output_processor.request_states


async def test_a_reload_by_vllm_serves_the_same_weights(serving: Serving) -> None:
    """Last, because exchange cannot be chosen again: the start checkpoint is not served any more."""
    await serving.engine.choose_update_method("reload")
    assert serving.engine.method == "reload"
    async with serving.running(*PROMPTS, n=2) as running:
        policy = await serving.update(perturbed(serving.versions[0], seed=13, scale=0.2))
        [sample] = await serving.sample([1, 9])
        finished = await running.finished()
    assert serving.error([1, 9], sample, version=policy.version) < CLOSE
    for prompt, continued in finished:
        replayed = replay(serving.model, serving.versions, prompt, continued.token_ids, continued.policy_spans)
        assert np.abs(replayed - continued.logprobs).max() < CLOSE
