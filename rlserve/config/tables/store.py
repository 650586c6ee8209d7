"""``[store]``: where the groups of a run are kept between their arrival and their training."""

import re
from typing import Any

from pydantic import Field, field_validator

from rlserve.config.base import Section


class StoreConfig(Section):
    """The learner's store of groups."""

    type: str = "sqlite"
    """Registered store: ``sqlite`` (a file in the run directory), ``redis`` (a server), or one of an installed
    package."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the store, e.g. ``{ power_safe = true }``: wait for the disk at every commit (``sqlite``), or
    ``{ url = "redis://HOST:6379/0" }``."""

    @field_validator("options")
    @classmethod
    def _without_password(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            # Not parsed as a URL: one that is malformed may still have a password, which no message must show.
            if isinstance(value, str) and re.search(r"://[^/@]*:[^/@]*@|[?&]password=", value):
                raise ValueError(
                    f"{name} has a password, which config.toml and logs would keep; leave it out, and give it in the "
                    "environment variable RLSERVE_REDIS_PASSWORD"
                )
        return options
