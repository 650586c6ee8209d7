"""The facts of a model's ``config.json`` that its memory follows from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

NORMED_HEADS = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2")
"""Model types that normalise queries and keys."""
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
"""Without one of these the model is none of this form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder of layers with attention and a gated feed-forward part; names as in ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = True
    """The output embedding is the input embedding."""
    normed_heads: bool = True
    experts: int = 0
    """Routed experts of a layer, each of ``expert_size``; 0: one feed-forward part of ``intermediate_size``."""
    expert_size: int = 0
    experts_per_token: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self | None:
        """The shape of a model with this ``config.json``; None for a model of another form."""
        inner = values.get("text_config")
        text = {**values, **(inner if isinstance(inner, Mapping) else {})}
        if not all(isinstance(text.get(name), int) for name in NEEDED):
            return None
        heads = int(text["num_attention_heads"])
        return cls(
            **{name: int(text[name]) for name in NEEDED},
            num_key_value_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or text["hidden_size"] // heads),
            tied=bool(text.get("tie_word_embeddings", False)),
            normed_heads=text.get("model_type") in NORMED_HEADS,
            experts=int(text.get("num_experts") or text.get("num_local_experts") or 0),
            expert_size=int(text.get("moe_intermediate_size") or text["intermediate_size"]),
            experts_per_token=int(text.get("num_experts_per_tok") or 0),
        )

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The shape by the ``config.json`` at ``path``, or in that directory; None when there is none to be read."""
        file = path / "config.json" if path.is_dir() else path
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return cls.from_json(values) if isinstance(values, dict) else None

    @property
    def query_width(self) -> int:
        """All heads of the queries."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """All heads of the keys, and of the values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def inner_width(self) -> int:
        """Of the feed-forward parts that one token meets."""
        return self.experts_per_token * self.expert_size if self.experts else self.intermediate_size

    @property
    def embedding(self) -> int:
        """Elements of one embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """V H (twice if untied), and in each layer H (2 A + 2 K) + 3 H I and norms; biases are left out.

        A and K are the widths of queries and keys, I that of the feed-forward part, with experts of all of them.
        """
        inner = self.experts * self.expert_size if self.experts else self.intermediate_size
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.normed_heads else 0)
        router = self.experts * self.hidden_size
        layer = self.hidden_size * (2 * self.query_width + 2 * self.key_width + 3 * inner) + norms + router
        return self.embedding * (1 if self.tied else 2) + self.num_hidden_layers * layer + self.hidden_size


def _qwen3(hidden: int, inner: int, layers: int, heads: int, *, tied: bool = True) -> ModelShape:
    return ModelShape(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151_936,
        tied=tied,
    )


QWEN25_15B = ModelShape(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    head_dim=128,
    vocab_size=151_936,
    normed_heads=False,
)
SMOLLM2_135M = ModelShape(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=49_152,
    normed_heads=False,
)
KNOWN: Mapping[str, ModelShape] = {
    "HuggingFaceTB/SmolLM2-135M": SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2_135M,
    "Qwen/Qwen2.5-1.5B": QWEN25_15B,
    "Qwen/Qwen2.5-1.5B-Instruct": QWEN25_15B,
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32),
    "Qwen/Qwen3-8B": _qwen3(4096, 12288, 36, 32, tied=False),
}
"""Shapes by hub name, for a plan without network; any other model: ``rlserve plan --model-config``."""
