"""rlserve: a reinforcement-learning-centric post-training service."""

__version__ = "0.1.0"
