"""What each stage runs at: on a GPU, and tiny on a machine without one."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Qwen3 architecture with an output head of its own; weights are random."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocabulary: int = 151_936


SHAPES: Mapping[str, Shape] = {
    # As the published configurations of these sizes have them.
    "0.6b": Shape(hidden=1024, ffn=3072, layers=28, heads=16, kv_heads=8),
    "1.7b": Shape(hidden=2048, ffn=6144, layers=28, heads=16, kv_heads=8),
    "4b": Shape(hidden=2560, ffn=9728, layers=36, heads=32, kv_heads=8),
    # Seconds on a CPU.
    "tiny": Shape(hidden=64, ffn=128, layers=2, heads=2, kv_heads=1, head_dim=32, vocabulary=512),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of all stages."""

    small: str
    """Shape of the whole run, of the first engine and of the first learner cases."""
    large: str
    """Shape of the other learner cases and of the last engine."""
    dtype: str
    row_tokens: int
    """Tokens of one micro-batch."""
    sequence_tokens: int
    """Tokens of a sequence in it, where it holds several."""
    micro_batches: int
    """Micro-batches of one optimizer step."""
    steps: int
    """Optimizer steps a case, the first not counted."""
    sequences: int
    """Sequences that the engine runs at once."""
    new_tokens: int
    """Tokens sampled for each."""
    rounds: int
    """Batches of sequences that are timed, by each side."""
    swaps: int
    kv_cache_bytes: int
    run_steps: int
    """Optimizer steps of the whole run."""
    groups_per_step: int


GPU = Sizes(
    small="0.6b",
    large="4b",
    dtype="bfloat16",
    row_tokens=16_384,
    sequence_tokens=1024,
    micro_batches=2,
    steps=3,
    sequences=256,
    new_tokens=512,
    rounds=1,
    swaps=4,
    kv_cache_bytes=24 * 2**30,
    run_steps=5,
    groups_per_step=32,
)
REHEARSAL = Sizes(
    small="tiny",
    large="tiny",
    dtype="float32",
    row_tokens=256,
    sequence_tokens=64,
    micro_batches=2,
    steps=2,
    sequences=8,
    new_tokens=96,
    rounds=1,
    swaps=2,
    kv_cache_bytes=2**26,
    run_steps=2,
    groups_per_step=4,
)
