"""Pipeline GRPO against TRL's GRPOTrainer: same start, prompts, group size, learning rate and machine."""

from rlserve.bench.peer.compare import measure

__all__ = ["measure"]
