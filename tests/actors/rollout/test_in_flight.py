"""Weights change while sequences run: what was sampled, by whom, and with which probability."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tiny_policies import Weights, biased_to, logprobs_under, perturbed, publish, replay, tiny_model, weights_of

from rlserve.actors.rollout.engine import EngineOptions, RolloutEngine, SamplingChoice
from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.errors import InvalidRequest, NotReady, WeightsMismatch
from rlserve.pretrain.tokenizer import train_tokenizer
from rlserve.records import FinishReason, PolicySpan, PolicyVersion, Sample

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

LONG = SamplingChoice(max_new_tokens=300)
CLOSE = 1e-4
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567"


class Serving:
    """One engine on a tiny model, the versions it was given, and the model to check it with."""

    def __init__(self, engine: RolloutEngine, model: Any, directory: Path) -> None:
        self.engine, self.model, self.directory = engine, model, directory
        self.versions: dict[int, Weights] = {0: weights_of(model)}
        self.policies: dict[int, PolicyVersion] = {}

    @property
    def path(self) -> Path:
        return self.directory / "weights.bin"

    def publish(self, weights: Weights) -> PolicyVersion:
        version = max(self.versions) + 1
        self.versions[version] = weights
        return publish(weights, version, self.path)

    async def update(self, weights: Weights) -> PolicyVersion:
        policy = self.publish(weights)
        await self.engine.stage(policy, self.path)
        report = await self.engine.swap(policy)
        assert (report.version, report.digest) == (policy.version, policy.digest)
        return policy

    async def sample(self, prompt: Sequence[int], *, n: int = 1, seed: int = 0, tokens: int = 64) -> list[Sample]:
        sampling = SamplingChoice(max_new_tokens=tokens)
        return await self.engine.generate(prompt, n=n, sampling=sampling, seed=seed, request_id=f"sample-{seed}")

    def error(self, prompt: Sequence[int], sample: Sample, version: int) -> float:
        """Largest difference to log-probabilities computed under one version alone."""
        expected = logprobs_under(self.model, self.versions[version], prompt, sample.token_ids)
        return float(np.abs(expected - sample.logprobs).max())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    directory = tmp_path_factory.mktemp("policy")
    model = tiny_model("qwen3", tied=True)
    model.save_pretrained(directory / "model")
    options = EngineOptions(model_path=str(directory / "model"), dtype="float32", max_length=512)
    engine = await RolloutEngine.start(options)
    yield Serving(engine, model, directory)
    await engine.shutdown()


async def progress(serving: Serving, *, sequences: int, tokens: int = 5) -> None:
    """Wait until this many sequences run and each has some more tokens."""
    states = serving.engine.llm.output_processor.request_states
    goals: dict[str, int] = {}
    async with asyncio.timeout(30):
        while len(goals) < sequences or any(
            key in states and states[key].detokenizer.num_output_tokens() < goal for key, goal in goals.items()
        ):
            for key, state in states.items():
                goals.setdefault(key, state.detokenizer.num_output_tokens() + tokens)
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(serving: Serving, *, prompts: int, n: int) -> AsyncIterator[list[asyncio.Task[list[Sample]]]]:
    tasks = [
        asyncio.create_task(
            serving.engine.generate([1, 2, 3, 4 + i], n=n, sampling=LONG, seed=100 * i, request_id=f"running-{i}")
        )
        for i in range(prompts)
    ]
    await progress(serving, sequences=prompts * n)
    yield tasks
    for task in tasks:
        task.cancel()


async def test_the_start_checkpoint_is_served_and_updated_by_exchange(serving: Serving) -> None:
    [sample] = await serving.sample([5, 6, 7])
    assert serving.engine.method == "exchange"
    assert serving.error([5, 6, 7], sample, version=0) < CLOSE
    assert sample.finish_reason is FinishReason.LENGTH


async def test_stamps_and_tokens_change_exactly_where_the_weights_do(serving: Serving) -> None:
    start = serving.engine.version
    base = serving.versions[start]
    async with running(serving, prompts=4, n=8) as tasks:
        says_7 = await serving.update(biased_to(base, 7))
        await progress(serving, sequences=32)
        says_9 = await serving.update(biased_to(base, 9))
        groups = await asyncio.gather(*tasks)
    for i, group in enumerate(groups):
        for sample in group:
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
            assert serving.error([1, 2, 3, 4 + i], before, version=start) < CLOSE


async def test_replaying_the_schedule_of_weights_with_kept_kv_gives_the_logprobs_oracle(serving: Serving) -> None:
    await serving.update(perturbed(serving.versions[0], seed=1))
    async with running(serving, prompts=2, n=4) as tasks:
        for seed in (2, 3, 4):
            await progress(serving, sequences=8)
            last = await serving.update(perturbed(serving.versions[0], seed=seed, scale=0.3))
        groups = await asyncio.gather(*tasks)
    for i, group in enumerate(groups):
        prompt = [1, 2, 3, 4 + i]
        for sample in group:
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
    assert not serving.engine.llm.output_processor.request_states, "vLLM goes on with none"


async def test_no_prefix_computed_by_older_weights_is_served(serving: Serving) -> None:
    prompt = [int(t) for t in np.random.default_rng(0).integers(1, 60, size=300)]
    before = serving.engine.version
    [old] = await serving.sample(prompt, tokens=20)
    fixed = await _with_salt(serving, prompt)
    policy = await serving.update(perturbed(serving.versions[before], seed=11, scale=0.3))
    [new] = await serving.sample(prompt, tokens=20)
    assert serving.error(prompt, old, version=before) < CLOSE
    assert serving.error(prompt, new, version=policy.version) < CLOSE
    # The cache is really in use: under a salt that stays the same, old blocks are found, and the result is wrong.
    assert serving.error(prompt, fixed, version=before) < CLOSE
    assert serving.error(prompt, await _with_salt(serving, prompt), version=policy.version) > 100 * CLOSE


async def _with_salt(serving: Serving, prompt: list[int]) -> Sample:
    from rlserve.actors.rollout.engine import _parameters
    from rlserve.actors.rollout.samples import to_sample

    request = {"prompt_token_ids": prompt, "cache_salt": "the same for ever"}
    parameters = _parameters(SamplingChoice(max_new_tokens=20), 0)
    async for output in serving.engine.llm.generate(request, parameters, request_id="salt"):
        final = output.outputs[0]
    return to_sample(final, seconds=0)


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


async def test_cancelled_work_leaves_the_engine_and_frees_its_slots(serving: Serving) -> None:
    async with running(serving, prompts=2, n=4) as tasks:
        assert serving.engine.stats().running_sequences == 8
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5)
    assert serving.engine.stats().running_sequences == 0
    assert serving.engine.llm.get_num_unfinished_requests() == 0


async def test_a_reload_by_vllm_serves_the_same_weights(serving: Serving) -> None:
    """Last, because exchange cannot be chosen again: the start checkpoint is not served any more."""
    await serving.engine.choose_update_method("reload")
    assert serving.engine.method == "reload"
    async with running(serving, prompts=2, n=2) as tasks:
        policy = await serving.update(perturbed(serving.versions[0], seed=13, scale=0.2))
        [sample] = await serving.sample([1, 9])
        groups = await asyncio.gather(*tasks)
    assert serving.error([1, 9], sample, version=policy.version) < CLOSE
    for i, group in enumerate(groups):
        for running_sample in group:
            replayed = replay(
                serving.model,
                serving.versions,
                [1, 2, 3, 4 + i],
                running_sample.token_ids,
                running_sample.policy_spans,
            )
            assert np.abs(replayed - running_sample.logprobs).max() < CLOSE
