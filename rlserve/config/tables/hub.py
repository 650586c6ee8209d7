"""``[hub]``: the registry of actors."""

from pydantic import Field

from rlserve.config.base import Section


class HubConfig(Section):
    """Registry of actors."""

    address: str = "127.0.0.1:0"
    """Address of the hub; port 0 takes a free one."""
    heartbeat_timeout_seconds: float = Field(3.0, gt=0)
    """An actor whose last heartbeat is older than this counts as dead."""
