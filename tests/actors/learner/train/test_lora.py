"""Adapters in the learner: against a plain peft model, in every ZeRO stage, saved, resumed, switched off."""

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlserve.actors.checkpoints import latest
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.reference import BaseReference, Reference
from rlserve.actors.learner.train.saving.checkpoint import restore
from rlserve.config.tables.learner import LearnerConfig, LoraConfig
from rlserve.errors import ConfigError, StateCorrupt
from rlserve.models.adapter_files import PREFIX, adapter_at
from rlserve.models.adapters import adapter_tensors
from rlserve.models.merge import merged
from tests.support.models.learner_work import policy_gradient, random_batch, save, save_policy, split

LR = 3e-3
LORA = LoraConfig(rank=4, alpha=8)
EPSILON = 1e-3
"""Large, so that an update follows the gradient and not the sign of its rounding: A has none before B moves."""
SETTINGS = {"dtype": "float32", "weight_decay": 0.01, "max_grad_norm": 0.7, "lora": LORA, "adam_epsilon": EPSILON}


def engine_of(path, **settings):
    return LearnerEngine(str(path), LearnerConfig(**SETTINGS | settings), seed=0)


def train(engine, steps):
    for step in steps:
        batches = split(random_batch(step), 2)
        yield engine.step(batches, loss=policy_gradient(batches), lr=LR)


def adapters_of(engine):
    return dict(engine.weights(engine.dtype))


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].view(torch.uint8).equal(right[name].view(torch.uint8)), name


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("start"))


def plain_peft(path, begin, steps):
    """(adapters, gradient norms) of an ordinary loop with peft's own model in float64, from adapters ``begin``."""
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64), settings)
    peft.set_peft_model_state_dict(model, begin)
    model.to(torch.float64)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), eps=EPSILON, weight_decay=0.01)
    norms = []
    for seed in range(steps):
        batch = random_batch(seed)
        logits = model(input_ids=batch.token_ids, attention_mask=(batch.sequence_ids >= 0).long()).logits
        logits = logits / batch.temperatures[:, :1, None]
        chosen = logits[:, :-1].log_softmax(-1).gather(-1, batch.token_ids[:, 1:, None]).squeeze(-1)
        loss = -(chosen * batch.advantages[:, 1:] * batch.loss_mask[:, 1:]).sum() / batch.loss_mask.sum()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, 0.7)))
        optimizer.step()
        optimizer.zero_grad()
    return peft.get_peft_model_state_dict(model), norms


@pytest.fixture(scope="module")
def begun(start):
    """An engine with adapters before its first step, and a copy of them."""
    engine = engine_of(start)
    return engine, adapters_of(engine)


@pytest.fixture(scope="module")
def plain(start, begun):
    return plain_peft(start, begun[1], 3)


def test_only_adapters_are_trained_published_and_optimized(begun):
    engine, adapters = begun
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for _, p in adapter_tensors(engine.module)}
    assert len(adapters) == 2 * 7 * 2  # A and B of seven matrices in two layers
    assert all(name.startswith(PREFIX) for name in adapters)
    assert {id(p) for g in engine.deepspeed.optimizer.param_groups for p in g["params"]} == {id(p) for p in trained}


@pytest.mark.parametrize(
    "settings",
    [{}, {"zero_stage": 2, "gradient_checkpointing": True}, {"zero_stage": 3}],
    ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()) or "plain",
)
def test_steps_equal_a_plain_peft_model_oracle(start, plain, settings):
    engine = engine_of(start, **settings)
    reports = list(train(engine, range(3)))
    adapters, norms = plain
    found = adapters_of(engine)
    assert found.keys() == adapters.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), adapters[name], atol=2e-5, rtol=0, msg=name)
    assert [r.grad_norm for r in reports] == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "bfloat16"), (3, "bfloat16")])
def test_a_resume_is_exact_and_a_checkpoint_holds_adapters_alone(start, tmp_path, stage, dtype):
    whole = engine_of(start, zero_stage=stage, dtype=dtype)
    list(train(whole, range(2)))
    kept = save(tmp_path, 2, whole, {})
    list(train(whole, range(2, 4)))
    assert kept.base_digest == whole.base_digest
    found = latest(tmp_path)
    files = load_file(found.path / "adapter_model.safetensors")
    optimizer = load_file(found.training_path / "optimizer-00000.safetensors")
    assert len(optimizer) == len(files) * (2 if dtype == "float32" else 3)
    assert not (found.path / "model.safetensors").exists()
    resumed = LearnerEngine(str(found.model_path), whole.config, seed=1, base=str(start))
    restore(found, resumed)
    list(train(resumed, range(2, 4)))
    assert_same_bits(adapters_of(resumed), adapters_of(whole))
    assert_same_bits(dict(resumed.optimizer_state()), dict(whole.optimizer_state()))


def test_peft_loads_a_checkpoint_and_a_merge_gives_the_same_model_oracle(start, tmp_path):
    engine = engine_of(start)
    list(train(engine, range(3)))
    kept = save(tmp_path, 3, engine, {})
    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    theirs = peft.PeftModel.from_pretrained(base, kept.path)
    ids = random_batch(7).token_ids
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        ours = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        changed = dict(merged(weights, adapters_of(engine), adapter_at(kept.path).scale))
        ours.load_state_dict(weights | changed)
        torch.testing.assert_close(ours(input_ids=ids).logits, expected, atol=3e-5, rtol=0)
    whole = theirs.merge_and_unload().state_dict()
    for name, tensor in changed.items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("stage", [0, 3])
def test_the_base_is_a_reference_without_a_second_model_oracle(start, stage):
    engine = engine_of(start, zero_stage=stage)
    batches = split(random_batch(3), 2)
    apart = Reference(str(start), LearnerConfig(dtype="float32"), engine.rank_info).score(batches)
    reference = BaseReference(engine)
    list(train(engine, range(2)))
    for ours, theirs in zip(reference.score(batches), apart, strict=True):
        torch.testing.assert_close(ours.reference_logprobs, theirs.reference_logprobs, atol=1e-6, rtol=0)
        policy = engine.logprobs(ours, needs=()).logprobs
        assert (policy - theirs.reference_logprobs).abs().max() > 1e-3, "the policy has moved, and its adapters are on"
    before = adapters_of(engine)
    list(train(engine, range(2, 3)))
    assert not torch.equal(*(list(a.values())[1] for a in (before, adapters_of(engine)))), "they train on"


def test_what_does_not_fit_is_refused_by_name(start, tmp_path):
    with pytest.raises(ConfigError, match=r"learner.lora.target_modules: .*'nothing'"):
        engine_of(start, lora=LoraConfig(target_modules=("nothing",)))
    with pytest.raises(ConfigError, match=r"'model.embed_tokens' is a Embedding that cannot"):
        engine_of(start, lora=LoraConfig(target_modules=("embed_tokens",)))
    kept = save(tmp_path, 1, engine_of(start), {})
    with pytest.raises(ConfigError, match=r"learner.lora: is not set, but .* is an adapter"):
        engine_of(kept.path, lora=None)
    with pytest.raises(ConfigError, match=r"\[4, 32\] for .* where \[8, 32\] is trained"):
        engine_of(kept.path, lora=LoraConfig(rank=8))
    with pytest.raises(ConfigError, match="which would be lost"):
        engine_of(kept.path, lora=LoraConfig(rank=4, target_modules=("q_proj",)))
    other = save_policy(tmp_path / "other", num_hidden_layers=2, initializer_range=0.1)
    with pytest.raises(StateCorrupt, match="belong to other weights"):
        restore(kept, LearnerEngine(str(kept.path), LearnerConfig(**SETTINGS), seed=0, base=str(other)))
