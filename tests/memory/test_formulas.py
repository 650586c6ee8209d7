"""Predicted bytes against what PyTorch itself counts, and against what a GPU had."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from rlserve.config.tables.learner import LearnerConfig, LoraConfig
from rlserve.memory.formulas import GIB, gpu_engine, layer_bytes, learner_rank, trained_elements
from rlserve.memory.shape import KNOWN, ModelShape
from rlserve.models.adapters import add_adapter

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**{name: n for name, n in SIZES.items() if name != "head_dim"}, tie_word_embeddings=True),
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, tie_word_embeddings=True),
}


def shape_of(config: Any) -> ModelShape:
    shape = ModelShape.from_json(config.to_dict())
    assert shape is not None
    return shape


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model(family: str) -> None:
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(FAMILIES[family])
    # Biases are left out of the formula: Qwen2 has some.
    counted = sum(p.numel() for name, p in model.named_parameters() if not name.endswith("bias"))
    assert shape_of(FAMILIES[family]).parameters == counted


@pytest.mark.parametrize(
    ("family", "targets"),
    [("qwen3", "all-linear"), ("qwen2", "all-linear"), ("llama", ("q_proj", "down_proj")), ("qwen3_moe", ("k_proj",))],
)
def test_adapters_are_those_that_peft_makes(family: str, targets: Any) -> None:
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(FAMILIES[family])
    lora = LoraConfig(rank=4, target_modules=targets)
    add_adapter(model, lora)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained_elements(shape_of(FAMILIES[family]), LearnerConfig(lora=lora)) == counted


def test_known_models_have_the_size_in_their_name() -> None:
    sizes = {"0.6B": 0.6, "1.5B": 1.54, "1.7B": 1.72, "4B": 4.02, "8B": 8.19, "135M": 0.1345}
    for name, shape in KNOWN.items():
        (size,) = [value for part, value in sizes.items() if f"-{part}" in name]
        assert shape.parameters / 1e9 == pytest.approx(size, rel=0.01), name


def test_another_form_of_model_has_no_shape() -> None:
    assert ModelShape.from_json({"model_type": "gpt2", "n_embd": 768}) is None
    nested = {"text_config": FAMILIES["qwen3"].to_dict(), "model_type": "vision"}
    assert ModelShape.from_json(nested) == shape_of(FAMILIES["qwen3"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_layer_keeps_what_autograd_saves(family: str, dtype: str) -> None:
    """All tensors that the backward pass of two models reads, which differ by one layer."""
    tokens = 128
    saved = [_saved(family, dtype, layers, tokens) for layers in (1, 2)]
    predicted = layer_bytes(shape_of(FAMILIES[family]), dtype, fused=False)
    # The rest: a few numbers a token, such as the norms' scales.
    assert predicted <= (saved[1] - saved[0]) / tokens <= 1.03 * predicted


def _saved(family: str, dtype: str, layers: int, tokens: int) -> int:
    values = {**FAMILIES[family].to_dict(), "num_hidden_layers": layers, "layer_types": None}
    config = type(FAMILIES[family])(**values)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=getattr(torch, dtype))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model.model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    assert states.last_hidden_state.requires_grad
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


ON_H200 = (
    # docs/performance.md: 0.75B, micro-batches of 16,384 tokens; GiB that torch allocated at most
    ({}, 46.6),
    ({"packing": True, "kernels": "liger"}, 35.2),
    ({"packing": True, "compile": True}, 34.6),
    ({"packing": True, "compile": True, "gradient_checkpointing": True}, 16.1),
)


@pytest.mark.parametrize(("options", "measured"), ON_H200)
def test_a_rank_takes_what_it_took_on_a_gpu(options: dict[str, Any], measured: float) -> None:
    from rlserve.bench.gpu.models import model_config
    from rlserve.bench.gpu.sizes import SHAPES

    shape = shape_of(model_config(SHAPES["0.6b"]))
    learner = LearnerConfig(tokens_per_micro_batch=16_384, **options)
    assert learner_rank(shape, learner, on_gpu=True).total / GIB == pytest.approx(measured, rel=0.05)


def test_an_engine_takes_what_it_took_on_a_gpu() -> None:
    """A random Qwen3 of 0.6B, tied, 24 GiB of KV cache, eager: 25.4 GiB allocated."""
    memory = gpu_engine(
        KNOWN["Qwen/Qwen3-0.6B"], "bfloat16", parallel=1, budget=0, kv_cache=24 * GIB, sequences=256, eager=True
    )
    assert (memory.total - memory.parts["staging"]) / GIB == pytest.approx(25.4, rel=0.05)


def test_ranks_share_what_their_stage_shares() -> None:
    shape = KNOWN["Qwen/Qwen3-8B"]
    count = shape.parameters
    one, two, three = (
        learner_rank(shape, LearnerConfig(ranks=8, zero_stage=stage), on_gpu=True).parts for stage in (1, 2, 3)
    )
    assert (one["weights"], one["gradients"], one["optimizer"]) == (2 * count, 4 * count, 12 * count // 8)
    assert two == one | {"gradients": 4 * count // 8, "buckets": one["buckets"] // 2}
    assert three["weights"] == 2 * count // 8 + 2 * 10**9  # DeepSpeed keeps a billion gathered parameters


def test_what_is_offloaded_is_the_hosts() -> None:
    shape = KNOWN["Qwen/Qwen3-4B"]
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    here, there = (
        learner_rank(shape, LearnerConfig(zero_stage=2, deepspeed=deepspeed), on_gpu=True)
        for deepspeed in ({}, offload)
    )
    moved = 16 * shape.parameters
    assert there.total == here.total - moved and there.host["offloaded"] == moved
