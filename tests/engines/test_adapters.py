"""Versions that are published as LoRA adapters: the engine serves its base plus the newest one, and nothing of those
before it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import pytest_asyncio
import torch

from rlserve.engines.vllm.engine import VllmEngine
from rlserve.engines.vllm.readback import Merging
from rlserve.errors import WeightsMismatch
from rlserve.models.merge import merged
from rlserve.records import PolicyVersion
from rlserve.weight_sync.checksum import checksums
from tests.support.models.serving_engine import Serving
from tests.support.models.tiny_policies import Weights, publish, replay, tiny_model, weights_of

CLOSE = 3e-5
SCALE = 2.0
PROMPTS = [(1, 2, 3, 4), (1, 2, 3, 5)]


def adapted(model: Any) -> Any:
    """peft's model around it, of rank 4 and alpha 8."""
    return peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def adapters(model: Any, *, seed: int) -> Weights:
    """Random adapters of it; seed 0 gives those that change nothing."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.1 if seed or ".lora_A." in name else 0.0) * torch.randn(tensor.shape, generator=generator)
        for name, tensor in peft.get_peft_model_state_dict(model).items()
    }


def test_any_number_of_versions_later_the_base_is_there_again_to_the_bit(tmp_path: Path) -> None:
    base = {name: tensor.to(torch.bfloat16) for name, tensor in weights_of(tiny_model("qwen3", tied=True)).items()}
    kept = checksums(list(base.values()))
    model = adapted(tiny_model("qwen3", tied=True))
    merging = Merging(base, SCALE)
    found = []
    for seed in (0, 1, 2, 3, 2, 0):
        policy = publish(adapters(model, seed=seed), 1, tmp_path / "flat")
        content = np.fromfile(tmp_path / "flat", dtype=np.uint8)
        tensors, whole = merging.version(policy, content)
        assert tensors.keys() == base.keys() and len(whole.tensors) == 14
        assert tensors["model.norm.weight"] is base["model.norm.weight"]
        found.append(checksums(list(tensors.values())))
    assert found[0] == found[5] == kept == checksums(list(base.values()))
    assert found[2] == found[4] != found[1]


def test_adapters_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    given = adapters(adapted(tiny_model("qwen3", tied=True)), seed=1)
    base = weights_of(tiny_model("qwen3", tied=True, intermediate_size=128))
    with pytest.raises(WeightsMismatch, match=r"layers.0.mlp.gate_proj.lora_A.weight' does not fit into .*gate_proj"):
        dict(merged(base, given, SCALE))
    with pytest.raises(WeightsMismatch, match=r"lora_B|lora_A"):
        dict(merged(base, dict(list(given.items())[:1]), SCALE))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    place = tmp_path_factory.mktemp("policy")
    serving = await Serving.start(VllmEngine, tiny_model("qwen3", tied=True), place, adapter_scale=SCALE)
    yield serving
    await serving.engine.close()


async def update(serving: Serving, given: Weights) -> PolicyVersion:
    """Serve adapters; the versions that ``Serving`` compares with are of peft's own model, merged by peft."""
    policy = publish(given, max(serving.versions) + 1, serving.path)
    model = adapted(tiny_model("qwen3", tied=True))
    peft.set_peft_model_state_dict(model, given)
    serving.versions[policy.version] = weights_of(model.merge_and_unload())
    await serving.engine.stage(policy, serving.path)
    report = await serving.engine.swap(policy)
    assert (report.version, report.digest) == (policy.version, policy.digest)
    return policy


@pytest.mark.whole  # an engine of its own
@pytest.mark.asyncio(loop_scope="module")
async def test_log_probabilities_are_those_of_peft_after_several_swaps_oracle(serving: Serving) -> None:
    model = adapted(tiny_model("qwen3", tied=True))
    async with serving.running(*PROMPTS, n=2) as running:
        for seed in (1, 2, 3, 0, 4):
            given = adapters(model, seed=seed)
            policy = await update(serving, given)
            peft.set_peft_model_state_dict(model, given)
            [sample] = await serving.sample([1, 9], seed=seed)
            ids = torch.tensor([[1, 9, *sample.token_ids.tolist()]])
            with torch.no_grad():
                logprobs = model(ids).logits[0, 1:-1].log_softmax(-1)
            expected = logprobs.gather(-1, ids[0, 2:, None])[:, 0].numpy()
            assert np.abs(expected - sample.logprobs).max() < CLOSE
            assert {span.version for span in sample.policy_spans} == {policy.version}
        finished = await running.finished()
    for prompt, continued in finished:
        assert len({span.version for span in continued.policy_spans}) > 1
        replayed = replay(serving.model, serving.versions, prompt, continued.token_ids, continued.policy_spans)
        assert np.abs(replayed - continued.logprobs).max() < CLOSE
    assert serving.engine.method == "exchange" and not serving.engine.device


@pytest.mark.whole
@pytest.mark.asyncio(loop_scope="module")
async def test_what_does_not_fit_leaves_the_served_weights_as_they_are(serving: Serving) -> None:
    given = adapters(adapted(tiny_model("qwen3", tied=True)), seed=5)
    policy = await update(serving, given)
    odd = {name.replace("q_proj", "other_proj"): tensor for name, tensor in given.items()}
    wrong = publish(odd, policy.version + 1, serving.path)
    with pytest.raises(WeightsMismatch, match="other_proj"):
        await serving.engine.stage(wrong, serving.path)
    right = publish(given, policy.version + 1, serving.path)
    content = bytearray(serving.path.read_bytes())
    content[-1] ^= 1
    serving.path.write_bytes(content)
    with pytest.raises(WeightsMismatch, match="differs from what was published"):
        await serving.engine.stage(right, serving.path)
    [sample] = await serving.sample([1, 9])
    assert serving.error([1, 9], sample, version=policy.version) < CLOSE
