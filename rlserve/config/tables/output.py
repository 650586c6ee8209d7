"""``[checkpoint]`` and ``[[trackers]]``: what a run leaves on disk and elsewhere."""

from typing import Any

from pydantic import Field

from rlserve.config.base import Section


class CheckpointConfig(Section):
    """Checkpoints on disk."""

    every_steps: int = Field(50, ge=0)
    """Steps between checkpoints; 0 keeps only the last."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept."""
    mirror: str = ""
    """URL to which checkpoints, start models and records are copied while training goes on, below the run's name:
    ``file:///DIRECTORY``, ``s3://BUCKET/PREFIX``, or any other of an installed fsspec package."""
    buffer_gib: float = Field(8.0, gt=0)
    """Host memory of a rank for copies of its state: training goes on when all of it is copied, and waits for the disk
    where the state is larger. At least three shards (3 GiB) of a large model are taken."""


class TrackerConfig(Section):
    """A tracker of experiments, to which curves, configuration, samples and results go."""

    type: str
    """``tensorboard``, ``wandb``, ``mlflow``, ``trackio``, or a tracker of an installed package."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the tracker, e.g. ``{ project = "mine", mode = "offline" }``; docs/trackers.md lists them."""
