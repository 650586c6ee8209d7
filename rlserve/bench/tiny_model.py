"""Writes a small random model to disk, for benchmarks in which vLLM loads one."""

from pathlib import Path


def save_tiny_model(directory: Path, *, hidden: int = 256, layers: int = 2, vocabulary: int = 64) -> str:
    """Write an untrained Qwen3 (1.2M parameters by default) as a Hugging Face checkpoint, and return its path."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return str(directory)
