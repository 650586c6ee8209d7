"""Makes a small decoder with random weights, as an ordinary Hugging Face model."""

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlserve.config.tables.pretrain import ArchitectureConfig

FAMILIES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def new_model(
    config: ArchitectureConfig, tokenizer: PreTrainedTokenizerFast, *, max_length: int, seed: int
) -> PreTrainedModel:
    """Return a float32 model with random weights; the same seed gives the same weights."""
    config_class, model_class = FAMILIES[config.family]
    model_config = config_class(
        # len(), not vocab_size, which leaves out tokens that were added.
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=max_length,
        tie_word_embeddings=config.tie_embeddings,
        initializer_range=config.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    # transformers initialises from torch's global generator: seed it here, and leave it as it was for the caller.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make: Any = model_class
        model: PreTrainedModel = make(model_config)
        return model
