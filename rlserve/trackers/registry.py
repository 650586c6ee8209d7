"""From ``[[trackers]]`` of a configuration to trackers, and what keeps them from starting.

To add one: a module with a class that is a ``rlserve.trackers.base.Tracker``, and its name here (or, in a package of
your own, an entry point of the group ``rlserve.trackers``).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlserve import plugins
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.plugins import TRACKER_GROUP
from rlserve.trackers.base import Tracker
from rlserve.trackers.mlflow import MlflowTracker
from rlserve.trackers.tensorboard import TensorboardTracker
from rlserve.trackers.trackio import TrackioTracker
from rlserve.trackers.wandb import WandbTracker

TRACKERS: Mapping[str, Any] = {
    "mlflow": MlflowTracker,
    "tensorboard": TensorboardTracker,
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
}


def tracker_of(config: RunConfig, index: int) -> Tracker:
    """The tracker of ``[[trackers]]`` at ``index``. Raises UnknownName, ConfigError or PluginFailed."""
    table = config.trackers[index]
    where = f"trackers.{index}.options"
    made: Tracker = plugins.make(TRACKER_GROUP, table.type, table.options, where=where, built_in=TRACKERS)
    return made


def tracker_problems(config: RunConfig, index: int, root: Path) -> Iterator[str]:
    """Why the tracker at ``index`` cannot track a run in ``root``, as "key: what it was; what to do"."""
    where = f"trackers.{index}"
    try:
        tracker_of(config, index).check(root)
    except InvalidRequest as error:
        text = str(error)
        inside = "" if error.field == "type" else "options."
        yield text if text.startswith(where) else f"{where}.{inside}{text}"
    except RlserveError as error:
        yield f"{where}.type: {error}"
