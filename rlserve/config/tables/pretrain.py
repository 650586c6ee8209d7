"""Sections of the included pretrain and SFT module."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rlserve.config.base import Section


class ArchitectureConfig(Section):
    """A small decoder from scratch."""

    family: Literal["qwen3", "llama"] = "qwen3"
    """Architecture, of those in transformers."""
    hidden_size: int = Field(256, ge=8)
    """Width of the residual stream."""
    num_layers: int = Field(2, ge=1)
    """Decoder layers."""
    num_heads: int = Field(4, ge=1)
    """Query heads of a layer."""
    num_kv_heads: int = Field(2, ge=1)
    """Key and value heads of a layer; ``num_heads`` is a multiple of it."""
    head_dim: int = Field(64, ge=4)
    """Width of a head."""
    ffn_size: int = Field(512, ge=8)
    """Width of the feed-forward layers."""
    tie_embeddings: bool = True
    """Use the input embedding as the output projection too."""
    initializer_range: float = Field(0.1, gt=0)
    """Standard deviation of the initial weights; 0.02 fails at this size."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary position embedding."""

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> "ArchitectureConfig":
        # Grouped-query attention gives each key-value head the same number of query heads.
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"architecture.num_kv_heads: is {self.num_kv_heads}; num_heads = {self.num_heads} must be a "
                "multiple of it"
            )
        # RoPE rotates pairs of dimensions.
        if self.head_dim % 2:
            raise ValueError(f"architecture.head_dim: is {self.head_dim}; rotary positions need an even one")
        return self


class TokenizerConfig(Section):
    """The tokenizer trained with the model."""

    type: Literal["characters", "bpe"] = "characters"
    """A token per character, or byte-pair encoding trained on the corpus."""
    alphabet: str = ""
    """Characters of a "characters" tokenizer; empty takes those of the data."""
    vocab_size: int = Field(64, ge=16)
    """Size of the vocabulary, special tokens included."""


class CorpusConfig(Section):
    """Text to learn from: an environment's demonstrations, or JSON lines."""

    environment: str = ""
    """Registered environment that can demonstrate (has ``demonstration``)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the environment's constructor."""
    path: str = ""
    """JSON lines with "text", or with "prompt" and "completion"."""
    mixture: list["CorpusConfig"] = Field(default_factory=list)
    """Several corpora in one, each drawn from by its ``weight``."""
    weight: float = Field(1.0, gt=0)
    """Share in a mixture, relative to the others."""

    @model_validator(mode="after")
    def _one_source(self) -> "CorpusConfig":
        if [bool(self.environment), bool(self.path), bool(self.mixture)].count(True) != 1:
            raise ValueError(
                f"corpus.path: is {self.path!r}, corpus.environment is {self.environment!r} and corpus.mixture has "
                f"{len(self.mixture)} parts; give exactly one of the three"
            )
        return self


class StageConfig(Section):
    """One training stage (pretrain or SFT)."""

    corpus: CorpusConfig
    """What the stage learns from."""
    steps: int = Field(600, ge=0)
    """At most this many optimizer steps; 0 skips the stage."""
    batch_size: int = Field(32, ge=1)
    """Sequences in one optimizer batch."""
    lr: float = Field(1.5e-3, gt=0)
    """Learning rate of AdamW, after the warm-up."""
    warmup_steps: int = Field(20, ge=0)
    """First steps, over which the learning rate rises linearly from 0."""
    cooldown_steps: int = Field(0, ge=0)
    """Last steps, over which the learning rate falls linearly to 0."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of AdamW's averages of the gradient and of its square."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Global gradient norm is clipped here."""
    stop_accuracy: float = Field(0.0, ge=0, le=1)
    """Go on to the cool-down, or end, once sampled accuracy on the validation split reaches this; 0: no checks."""
    check_every: int = Field(10, ge=1)
    """Steps between accuracy checks."""
    check_from: int = Field(100, ge=0)
    """First step at which accuracy is checked."""
    check_problems: int = Field(200, ge=1)
    """Validation problems a check."""
    torch_threads: int = Field(0, ge=0)
    """CPU threads of torch during the stage; 0 takes all cores, at most 8."""

    @model_validator(mode="after")
    def _accuracy_needs_an_environment(self) -> "StageConfig":
        # A row of a file names no verifier.
        if self.stop_accuracy and not self.corpus.environment:
            raise ValueError(
                f"stage.stop_accuracy: is {self.stop_accuracy}, but only the tasks of a corpus.environment can "
                "be judged; name one or leave it out"
            )
        return self


class PretrainConfig(Section):
    """From nothing to a language model: architecture, tokenizer, pretraining."""

    architecture: ArchitectureConfig = ArchitectureConfig()
    """The model."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Its tokenizer."""
    stage: StageConfig
    """Its training."""


class SftConfig(Section):
    """Supervised fine-tuning on prompt and completion pairs; loss on completions alone."""

    stage: StageConfig
    """Its training."""
