"""Random Qwen3 checkpoints with a tokenizer, so that no weights have to travel to the machine."""

from pathlib import Path
from typing import Any

from rlserve.bench.gpu.sizes import SHAPES, Shape

CONTEXT = 40_960
"""Positions of the published configurations."""
HEAD_SPREAD = 2.0
"""About that of a trained model; near 0 all tokens would be equally likely under any version."""


def checkpoint(out: Path, name: str, dtype: str) -> str:
    """Path of the checkpoint of shape ``name``; it is written once, on the GPU where there is one."""
    path = out / "models" / f"{name}-{dtype}"
    if not (path / "tokenizer.json").exists():
        _write(path, SHAPES[name], dtype)
    return str(path)


def _write(path: Path, shape: Shape, dtype: str) -> None:
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(0)
    # On the GPU: to draw four billion numbers takes a CPU half a minute.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = Qwen3ForCausalLM(model_config(shape)).to(getattr(torch, dtype))
    # Hidden states come normalised, so that this makes logits of standard deviation HEAD_SPREAD.
    model.lm_head.weight.data *= HEAD_SPREAD / (model.config.initializer_range * shape.hidden**0.5)
    model.save_pretrained(path)
    _tokenizer(shape.vocabulary).save_pretrained(path)


def model_config(shape: Shape) -> Any:
    """The ``Qwen3Config`` of a shape."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=CONTEXT,
        # A head of its own can change alone, which the stage ``engine`` uses.
        tie_word_embeddings=False,
    )


def _tokenizer(vocabulary: int) -> Any:
    """A word for each token id, so that whatever a random model samples is text that a verifier can read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
