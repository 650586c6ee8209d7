"""Every method on the same start, task and budget of samples: what it learns, how fast."""

from rlserve.bench.learn.compare import measure

__all__ = ["measure"]
