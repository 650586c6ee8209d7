"""The engine in one process: against plain PyTorch, over splits, through bad steps."""

import math

import pytest
import torch
from safetensors.torch import load_file

from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.scorer import load_model
from rlserve.algorithms.batch import LossOutput
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import ConfigError, LimitExceeded
from tests.support.models.learner_work import policy_gradient, random_batch, save_policy, split

LR = 3e-3
SETTINGS = {"dtype": "float32", "weight_decay": 0.01, "max_grad_norm": 0.7}


def engine_of(path, **settings):
    return LearnerEngine(str(path), LearnerConfig(**SETTINGS | settings), seed=0)


def weights_of(engine):
    return dict(engine.weights(torch.float32))


def step(engine, batches, loss=None, lr=LR):
    return engine.step(batches, loss=loss or policy_gradient(batches), lr=lr)


def plain_training(path, steps):
    """(weights, gradient norms before clipping, losses) of an ordinary PyTorch loop on whole batches."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.01)
    norms, losses = [], []
    for seed in range(steps):
        batch = random_batch(seed)
        logits = model(input_ids=batch.token_ids, attention_mask=(batch.sequence_ids >= 0).long()).logits
        logits = logits / batch.temperatures[:, :1, None]
        chosen = logits[:, :-1].log_softmax(-1).gather(-1, batch.token_ids[:, 1:, None]).squeeze(-1)
        loss = -(chosen * batch.advantages[:, 1:] * batch.loss_mask[:, 1:]).sum() / batch.loss_mask.sum()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.7)))
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}, norms, losses


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def plain(start):
    return plain_training(start, 3)


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_equal_a_plain_loop_however_the_batch_is_split_oracle(start, plain, stage, parts):
    engine = engine_of(start, zero_stage=stage)
    reports = [step(engine, split(random_batch(seed), parts)) for seed in range(3)]
    weights, norms, losses = plain
    for name, ours in weights_of(engine).items():
        # Adam makes a whole step of a gradient near 0, whose rounding differs: 0.3 % of one step.
        torch.testing.assert_close(ours, weights[name], atol=1e-5, rtol=0)
    assert [r.grad_norm for r in reports] == pytest.approx(norms, rel=2e-6)
    assert [r.loss for r in reports] == pytest.approx(losses, abs=2e-6)
    assert min(norms) > 0.7  # so that clipping took part


OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
ALL_OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}}


@pytest.mark.parametrize(("stage", "keys"), [(1, OFFLOAD), (2, OFFLOAD), (3, ALL_OFFLOAD)])
def test_what_is_offloaded_trains_as_a_plain_loop_does_oracle(start, plain, stage, keys):
    engine = engine_of(start, zero_stage=stage, deepspeed=keys)
    reports = [step(engine, split(random_batch(seed), 2)) for seed in range(3)]
    weights, norms, _ = plain
    for name, ours in weights_of(engine).items():
        torch.testing.assert_close(ours, weights[name], atol=1e-5, rtol=0)
    assert [r.grad_norm for r in reports] == pytest.approx(norms, rel=2e-6)
    state = dict(engine.optimizer_state())
    assert len(state) == 2 * len(weights) and engine.optimizer_steps == 3


def test_a_step_says_what_it_computed(start):
    batch = random_batch(0)
    report = step(engine_of(start), split(batch, 4))
    assert report.tokens == float((batch.sequence_ids >= 0).sum())
    assert report.flops > 6 * 17_000 * report.tokens  # the policy has 18 thousand weights
    assert report.peak_bytes > 2**20 and report.peak_flops == 0  # no CPU's peak is known


def test_a_key_that_deepspeed_does_not_know_is_named(start):
    with pytest.raises(ConfigError, match=r"learner\.deepspeed: offload_optimiser"):
        engine_of(start, zero_stage=1, deepspeed={"zero_optimization": {"offload_optimiser": {"device": "cpu"}}})


def test_metrics_of_micro_batches_are_those_of_the_batch(start):
    batch = random_batch(0)
    whole, parts = (step(engine_of(start), split(batch, n), lr=0.0) for n in (1, 4))
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert whole.metrics["tokens"] == float(batch.loss_mask.sum())


def spoiled(value):
    """The usual loss, plus ``value`` which has no gradient."""

    def loss(outputs, batch):
        share = policy_gradient([batch])(outputs, batch)
        return LossOutput(share.loss + value, share.metrics)

    return loss


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "float32"), (3, "float32"), (0, "bfloat16")])
def test_a_step_with_a_bad_loss_changes_nothing_and_is_counted(start, stage, dtype):
    engine = engine_of(start, zero_stage=stage, dtype=dtype)
    batches = split(random_batch(0), 2)
    step(engine, batches)
    weights, state = weights_of(engine), dict(engine.optimizer_state())
    for value in (torch.nan, torch.inf):
        report = step(engine, batches, loss=spoiled(value))
        assert (report.skipped, report.grad_norm < torch.inf) == (True, False)
    assert report.skipped_steps == 2
    assert all(t.equal(weights[name]) for name, t in weights_of(engine).items())
    assert all(t.equal(state[name]) for name, t in engine.optimizer_state())
    good = step(engine, batches)
    assert (good.skipped, good.updates, report.updates) == (False, 1, 0)


@pytest.mark.parametrize("stage", [0, 3])
def test_the_reach_of_a_loss_says_what_would_be_skipped_and_changes_nothing(start, stage):
    def steep(outputs, batch):
        root = (outputs.logprobs.sum() * 0).clamp(min=0).sqrt()  # 0, of infinite slope
        return LossOutput(root, {})

    engine = engine_of(start, zero_stage=stage)
    batches = split(random_batch(0), 2)
    before = weights_of(engine)
    loss = policy_gradient(batches)
    tokens = sum(float(b.loss_mask.sum()) for b in batches)
    expected = sum(float((b.advantages * b.loss_mask).square().sum()) for b in batches) ** 0.5 / tokens
    assert engine.output_gradient_norm(batches, loss=loss, needs=()) == pytest.approx(expected, rel=1e-6)
    for bad in (spoiled(torch.nan), spoiled(-torch.inf), steep):
        assert not math.isfinite(engine.output_gradient_norm(batches, loss=bad, needs=()))
    assert engine.output_gradient_norm(batches, loss=lambda o, b: LossOutput(torch.zeros(()), {}), needs=()) == 0
    assert all(t.equal(before[name]) for name, t in weights_of(engine).items())
    assert not step(engine, batches).skipped


def test_a_bad_gradient_under_a_good_loss_is_skipped_too(start):
    def loss(outputs, batch):
        share = policy_gradient([batch])(outputs, batch)
        root = (outputs.logprobs.sum() * 0).clamp(min=0).sqrt()  # 0, of infinite slope
        return LossOutput(share.loss + root, share.metrics)

    engine = engine_of(start)
    before = weights_of(engine)
    report = step(engine, [random_batch(0)], loss=loss)
    assert report.skipped and abs(report.loss) < 10
    assert all(t.equal(before[name]) for name, t in weights_of(engine).items())


@pytest.mark.parametrize(("stage", "tied"), [(0, True), (3, True), (0, False), (3, False)])
def test_weights_go_by_the_names_and_values_of_the_checkpoint(tmp_path, stage, tied):
    path = save_policy(tmp_path, tied=tied)
    engine = engine_of(path, zero_stage=stage)
    expected = load_file(path / "model.safetensors")
    assert ("lm_head.weight" in expected) != tied
    for dtype in (torch.float32, torch.bfloat16):
        given = dict(engine.weights(dtype))
        assert given.keys() == expected.keys()
        for name, tensor in given.items():
            assert tensor.equal(expected[name].to(dtype)) and tensor.is_contiguous()


def test_experts_that_the_model_holds_fused_go_by_the_names_of_the_checkpoint(tmp_path):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 1}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts)).save_pretrained(tmp_path)
    engine = engine_of(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    given = weights_of(engine)
    assert "model.layers.0.mlp.experts.3.down_proj.weight" in given
    assert not any("experts.3." in name for name, _ in engine.module.named_parameters())
    assert given.keys() == expected.keys()
    assert all(given[name].equal(tensor) for name, tensor in expected.items())


def test_weights_handed_out_do_not_change_with_the_next_step(start):
    engine = engine_of(start)
    handed = weights_of(engine)
    copies = {name: t.clone() for name, t in handed.items()}
    step(engine, [random_batch(0)])
    assert all(t.equal(copies[name]) for name, t in handed.items())
    assert not weights_of(engine)["model.norm.weight"].equal(copies["model.norm.weight"])


@torch.no_grad()
def test_logprobs_are_those_of_the_model_where_it_is_trained_on(start):
    from transformers import AutoModelForCausalLM

    batch = random_batch(3)
    outputs = engine_of(start).logprobs(batch)
    logits = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)(input_ids=batch.token_ids).logits
    expected = policy_outputs(logits, batch)
    trained = batch.loss_mask != 0
    torch.testing.assert_close(outputs.logprobs[trained], expected.logprobs[trained])
    torch.testing.assert_close(outputs.entropy[trained], expected.entropy[trained])
    assert not outputs.logprobs[:, :4].any()  # the prompt's columns were not even computed


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_off_so_a_step_repeats_bit_for_bit(tmp_path, checkpointing):
    path = save_policy(tmp_path, attention_dropout=0.5)
    results = []
    for _ in range(2):
        engine = engine_of(path, gradient_checkpointing=checkpointing)
        torch.rand(7)  # another place in the random stream
        results.append((step(engine, [random_batch(0)]), weights_of(engine)))
    (one, left), (other, right) = results
    assert (one.loss, one.grad_norm) == (other.loss, other.grad_norm)
    assert all(t.equal(right[name]) for name, t in left.items())


def test_recomputing_layers_changes_no_result(start):
    kept, recomputed = (engine_of(start, gradient_checkpointing=c) for c in (False, True))
    layers = sum(module.training for module in recomputed.module.modules())
    assert layers == 2  # the decoder layers and nothing in them
    reports = [step(engine, [random_batch(0)]) for engine in (kept, recomputed)]
    assert reports[0].grad_norm == pytest.approx(reports[1].grad_norm, rel=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 6), (1 / 3, 2), (0.5, 3), (0.01, 0)])
def test_a_share_of_the_layers_is_recomputed(tmp_path, share, expected):
    path = save_policy(tmp_path, num_hidden_layers=6)
    model = load_model(str(path), LearnerConfig(gradient_checkpointing=True, recomputed_share=share))
    recomputed = [layer.training for layer in model.model.layers]
    assert sum(recomputed) == expected
    assert expected < 2 or recomputed[-1]  # spread to the end


def test_after_an_engine_was_closed_another_can_start(start):
    first = engine_of(start, zero_stage=2)
    expected = step(first, [random_batch(0)]).grad_norm
    first.close()
    assert step(engine_of(start, zero_stage=2), [random_batch(0)]).grad_norm == expected


@pytest.mark.parametrize("settings", [{}, {"zero_stage": 2}, {"gradient_checkpointing": True}, {"packing": True}])
def test_a_warm_up_changes_nothing(start, settings):
    plain, warmed = engine_of(start, **settings), engine_of(start, **settings, tokens_per_micro_batch=64)
    warmed.warm_up(width=24, trained=10)
    reports = [[step(engine, [random_batch(seed)]) for seed in range(2)] for engine in (plain, warmed)]
    for one, other in zip(*reports, strict=True):
        assert one.loss == other.loss and one.grad_norm == other.grad_norm
    assert plain.optimizer_steps == warmed.optimizer_steps == 2
    for name, tensor in weights_of(warmed).items():
        assert torch.equal(tensor, weights_of(plain)[name])


def test_a_micro_batch_that_does_not_fit_is_found_before_training(start, monkeypatch):
    engine = engine_of(start, tokens_per_micro_batch=64)

    def full(*_, **__):  # a machine that is out of memory cannot be had
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_backward", full)
    with pytest.raises(LimitExceeded, match=r"learner\.tokens_per_micro_batch: 64 tokens do not fit"):
        engine.warm_up(width=24, trained=10)
