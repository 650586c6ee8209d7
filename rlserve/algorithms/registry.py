"""Creates the algorithm of a configuration section, built in or a plug-in: both are entry points of one group."""

from typing import Any

from rlserve import plugins
from rlserve.algorithms.base import Algorithm
from rlserve.errors import PluginFailed
from rlserve.plugins import ALGORITHM_GROUP


def names() -> list[str]:
    """Registered algorithms, sorted."""
    return plugins.names(ALGORITHM_GROUP)


def create(config: Any) -> Algorithm:
    """The algorithm registered as ``config.type``.

    Raises UnknownName, which lists the registered ones, or PluginFailed when construction fails.
    """
    algorithm = plugins.load(ALGORITHM_GROUP, config.type)(config)
    # A runtime check of a Protocol compares names of attributes alone; it still finds a class of another kind.
    if not isinstance(algorithm, Algorithm):
        raise PluginFailed(
            f"{ALGORITHM_GROUP}: {config.type!r} has no needs, why_drop, prepare and loss; "
            "see rlserve.algorithms.base.Algorithm"
        )
    return algorithm
