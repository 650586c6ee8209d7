"""The KV cache on CPU: room for sequences of the context, whatever the model's shape."""

import pytest
from transformers import DeepseekV3Config, Gemma3TextConfig, LlamaConfig, Qwen3Config

from rlserve.engines.vllm.cpu import LEAST_BYTES, SEQUENCES, cpu_kv_cache_bytes, sequence_bytes
from rlserve.errors import ConfigError

SMOL = LlamaConfig(num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3)
QWEN = Qwen3Config(num_hidden_layers=28, num_key_value_heads=8, head_dim=128, num_attention_heads=16)


def test_a_sequence_needs_keys_and_values_of_each_layer() -> None:
    assert sequence_bytes(SMOL, dtype="float32", max_length=128) == 30 * 2 * 3 * 64 * 4 * 128
    assert sequence_bytes(QWEN, dtype="bfloat16", max_length=2048) == 28 * 2 * 8 * 128 * 2 * 2048


@pytest.mark.parametrize("model", [SMOL, QWEN])
@pytest.mark.parametrize("max_length", [64, 2048, 8192])
def test_what_is_left_open_holds_at_least_one_sequence(model: LlamaConfig, max_length: int) -> None:
    size = cpu_kv_cache_bytes(model, dtype="float32", max_length=max_length, asked=0)
    need = sequence_bytes(model, dtype="float32", max_length=max_length)
    assert size >= max(LEAST_BYTES, need)
    assert size <= max(LEAST_BYTES, SEQUENCES * need)


def test_too_little_is_refused_with_both_numbers() -> None:
    need = sequence_bytes(QWEN, dtype="float32", max_length=2048)
    assert cpu_kv_cache_bytes(QWEN, dtype="float32", max_length=2048, asked=need) == need
    with pytest.raises(ConfigError, match=rf"kv_cache_bytes: is {need - 1}, but one sequence .* needs {need}"):
        cpu_kv_cache_bytes(QWEN, dtype="float32", max_length=2048, asked=need - 1)


@pytest.mark.parametrize("model", [Gemma3TextConfig(), DeepseekV3Config()])
def test_layers_that_keep_less_are_left_to_vllm(model: LlamaConfig) -> None:
    assert cpu_kv_cache_bytes(model, dtype="bfloat16", max_length=2048, asked=2**20) == 2**20
