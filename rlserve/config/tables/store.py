"""``[store]``: where the groups of a run are kept between their arrival and their training."""

from typing import Any

from pydantic import Field

from rlserve.config.base import Section


class StoreConfig(Section):
    """The learner's store of groups."""

    type: str = "sqlite"
    """Registered store: ``sqlite`` (a file in the run directory), or one of an installed package."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the store, e.g. ``{ power_safe = true }``: wait for the disk at every commit (``sqlite``)."""
