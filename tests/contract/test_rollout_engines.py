"""What every rollout engine promises. A new engine joins by its line in ``rlserve.engines.factory``.

One engine serves all tests of this file in turn: its start is what takes long. The last test kills it.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio

from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.engines.base import SamplingChoice
from rlserve.engines.factory import ENGINES, engine_class
from rlserve.errors import ConfigError, EngineDied, InvalidRequest, NotReady, WeightsMismatch
from rlserve.pretrain.tokenizer import train_tokenizer
from rlserve.records import FinishReason, PolicySpan, Sample
from tests.support.models.serving_engine import LONG, Serving
from tests.support.models.tiny_policies import biased_to, logprobs_under, perturbed, publish, replay, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

IMPLEMENTATIONS = sorted(ENGINES)
CLOSE = 1e-4
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567"
PROMPTS = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 6), (1, 2, 3, 7)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=IMPLEMENTATIONS)
async def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    model = tiny_model("qwen3", tied=True)
    serving = await Serving.start(engine_class(request.param), model, tmp_path_factory.mktemp("policy"))
    yield serving
    await serving.engine.close()
    await serving.engine.close()


async def test_an_engine_that_nobody_wrote_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"rollout.engine: 'vlm' is unknown; did you mean 'vllm'\?"):
        engine_class("vlm")


async def test_the_start_checkpoint_is_served(serving: Serving) -> None:
    [sample] = await serving.sample([5, 6, 7])
    assert serving.engine.version == 0 and serving.engine.alive and not serving.engine.death
    assert sample.policy_spans == (PolicySpan(0, 64),)
    assert serving.error([5, 6, 7], sample, version=0) < CLOSE
    assert sample.finish_reason is FinishReason.LENGTH


async def test_stamps_and_tokens_change_exactly_where_the_weights_do(serving: Serving) -> None:
    start = serving.engine.version
    base = serving.versions[start]
    async with serving.running(*PROMPTS, n=8) as running:
        says_7 = await serving.update(biased_to(base, 7))
        await running.progress()
        says_9 = await serving.update(biased_to(base, 9))
        finished = await running.finished()
    for prompt, sample in finished:
        assert len(sample.token_ids) == LONG.max_new_tokens
        versions = np.repeat([s.version for s in sample.policy_spans], [s.length for s in sample.policy_spans])
        assert set(versions) == {start, says_7.version, says_9.version}
        assert (sample.token_ids[versions == says_7.version] == 7).all()
        assert (sample.token_ids[versions == says_9.version] == 9).all()
        assert (sample.logprobs[versions != start] > -1e-3).all()
        before = Sample(
            token_ids=sample.token_ids[versions == start],
            logprobs=sample.logprobs[versions == start],
            policy_spans=(),
            finish_reason=sample.finish_reason,
            seconds=0,
        )
        assert before.logprobs.min() < -0.1
        assert serving.error(prompt, before, version=start) < CLOSE


async def test_replaying_the_schedule_of_weights_with_kept_kv_gives_the_logprobs_oracle(serving: Serving) -> None:
    await serving.update(perturbed(serving.versions[0], seed=1))
    async with serving.running(*PROMPTS[:2], n=4) as running:
        for seed in (2, 3, 4):
            await running.progress()
            last = await serving.update(perturbed(serving.versions[0], seed=seed, scale=0.3))
        finished = await running.finished()
    for prompt, sample in finished:
        assert len(sample.policy_spans) >= 2
        replayed = replay(serving.model, serving.versions, prompt, sample.token_ids, sample.policy_spans)
        assert np.abs(replayed - sample.logprobs).max() < CLOSE
        assert serving.error(prompt, sample, version=last.version) > 0.1


async def test_after_swaps_the_engine_agrees_with_hugging_face_oracle(serving: Serving) -> None:
    for seed in (5, 6, 7):
        policy = await serving.update(perturbed(serving.versions[0], seed=seed, scale=0.2))
    for sample in await serving.sample([8, 9], n=8, tokens=200):
        assert [span.version for span in sample.policy_spans] == [policy.version]
        assert serving.error([8, 9], sample, version=policy.version) < CLOSE


async def test_logprobs_are_those_at_the_sampling_temperature_oracle(serving: Serving) -> None:
    sampling = SamplingChoice(temperature=0.5, max_new_tokens=64)
    [sample] = await serving.engine.generate([3, 1], n=1, sampling=sampling, seed=0, request_id="cool")
    weights = serving.versions[serving.engine.version]
    name = "model.norm.weight"
    halved = weights | {name: weights[name] / 0.5}  # logits are linear in the last norm's weight
    expected = logprobs_under(serving.model, halved, [3, 1], sample.token_ids)
    assert np.abs(expected - sample.logprobs).max() < CLOSE


async def test_a_completion_depends_on_its_seed_and_not_on_its_company(serving: Serving) -> None:
    group = await serving.sample([2, 4], n=4, seed=10)
    [alone] = await serving.sample([2, 4], seed=12)
    assert (group[2].token_ids == alone.token_ids).all()
    assert not (group[1].token_ids == alone.token_ids).all()


async def test_a_stop_token_ends_the_completion_and_is_its_last_token(serving: Serving) -> None:
    [free] = await serving.sample([2, 5], seed=3)
    stop = int(free.token_ids[10])
    first = int(np.flatnonzero(free.token_ids == stop)[0])
    sampling = SamplingChoice(max_new_tokens=64, stop_token_ids=(stop,))
    [sample] = await serving.engine.generate([2, 5], n=1, sampling=sampling, seed=3, request_id="stop")
    assert sample.finish_reason is FinishReason.STOP
    assert (sample.token_ids == free.token_ids[: first + 1]).all()
    assert len(sample.logprobs) == first + 1


async def test_a_stop_text_ends_the_completion_with_the_token_that_completes_it(serving: Serving) -> None:
    letters = train_tokenizer(TokenizerConfig(type="characters", alphabet=ALPHABET), [], max_length=512)
    [free] = await serving.sample([2, 5], seed=3)
    text = letters.decode(free.token_ids.tolist(), skip_special_tokens=True)
    stop = text[10:13]
    choice = SamplingChoice(max_new_tokens=64, stop=("never", stop))
    with pytest.raises(InvalidRequest, match=r"sampling\.stop: this engine has no tokenizer"):
        await serving.engine.generate([2, 5], n=1, sampling=choice, seed=3, request_id="no-tokenizer")
    serving.engine.read_with(letters)
    [sample] = await serving.engine.generate([2, 5], n=1, sampling=choice, seed=3, request_id="stop-text")
    kept = letters.decode(sample.token_ids.tolist(), skip_special_tokens=True)
    assert kept == text[: text.index(stop) + len(stop)]
    assert sample.token_ids.tolist() == free.token_ids[: len(sample.token_ids)].tolist()
    assert sample.finish_reason is FinishReason.STOP
    assert sample.policy_spans == (PolicySpan(serving.engine.version, len(sample.token_ids)),)
    assert np.array_equal(sample.logprobs, free.logprobs[: len(sample.token_ids)])


async def test_no_prefix_computed_by_older_weights_is_served(serving: Serving) -> None:
    prompt = [int(t) for t in np.random.default_rng(0).integers(1, 60, size=300)]
    before = serving.engine.version
    [old] = await serving.sample(prompt, tokens=20)
    policy = await serving.update(perturbed(serving.versions[before], seed=11, scale=0.3))
    [new] = await serving.sample(prompt, tokens=20)
    assert serving.error(prompt, old, version=before) < CLOSE
    assert serving.error(prompt, new, version=policy.version) < CLOSE


@pytest.mark.parametrize("fault", ["a flipped bit", "a missing byte", "a missing tensor", "another dtype"])
async def test_wrong_weights_are_refused_before_they_are_served(serving: Serving, fault: str) -> None:
    before = serving.engine.version
    weights = perturbed(serving.versions[before], seed=12)
    if fault == "a missing tensor":
        del weights["model.norm.weight"]
    if fault == "another dtype":
        weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
    policy = publish(weights, before + 1, serving.path)
    content = bytearray(serving.path.read_bytes())
    if fault == "a flipped bit":
        content[len(content) // 2] ^= 1
    serving.path.write_bytes(content[:-1] if fault == "a missing byte" else content)
    with pytest.raises(WeightsMismatch, match=f"version {policy.version}"):
        await serving.engine.stage(policy, serving.path)
    with pytest.raises(NotReady):
        await serving.engine.swap(policy)
    assert serving.engine.version == before
    [sample] = await serving.sample([4, 4], seed=1)
    assert serving.error([4, 4], sample, version=before) < CLOSE


async def test_a_manifest_that_does_not_match_its_digest_is_refused(serving: Serving) -> None:
    policy = publish(serving.versions[0], serving.engine.version + 1, serving.path)
    with pytest.raises(WeightsMismatch, match="manifest"):
        await serving.engine.stage(replace(policy, digest="0" * 32), serving.path)


@pytest.mark.parametrize("prompt", [[], [64], [-1], [1] * 512])
async def test_a_prompt_that_would_harm_the_engine_is_refused(serving: Serving, prompt: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="prompt_token_ids"):
        await serving.sample(prompt)


async def test_tokens_are_counted_while_they_are_sampled_and_until_they_are_forgotten(serving: Serving) -> None:
    async with serving.running(PROMPTS[0], n=1) as running:
        [name] = running.names
        assert 5 <= serving.engine.tokens_of(name) < LONG.max_new_tokens and serving.engine.runs(name)
        await running.finished()
        assert serving.engine.tokens_of(name) == LONG.max_new_tokens and not serving.engine.runs(name)
    assert serving.engine.tokens_of(name) == 0


async def test_cancelled_work_leaves_the_engine(serving: Serving) -> None:
    async with serving.running(*PROMPTS[:2], n=4) as running:
        assert all(serving.engine.runs(name) for name in running.names)
        await running.cancel()
        assert not any(serving.engine.runs(name) for name in running.names)
    policy = serving.publish(serving.versions[0])
    await serving.engine.stage(policy, serving.path)
    assert (await serving.engine.swap(policy)).running_sequences == 0


async def test_a_killed_engine_is_noticed_at_once(serving: Serving) -> None:
    """The last one: nothing can be sampled after it."""
    async with serving.running(PROMPTS[0], n=4) as running:
        killed = time.monotonic()
        for pid in serving.engine.process_ids:
            os.kill(pid, signal.SIGKILL)
        ended = await asyncio.wait_for(running.errors(), 10)
    assert all(isinstance(error, EngineDied) for error in ended)
    await asyncio.wait_for(serving.engine.died.wait(), 5)
    assert time.monotonic() - killed < 5
    assert not serving.engine.alive and serving.engine.death
    with pytest.raises(EngineDied):
        await serving.sample([1], tokens=1)
