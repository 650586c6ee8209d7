"""What must always hold of a run's groups."""

from typing import Any


def check_counts_add_up(groups: dict[str, Any]) -> None:
    """Each group that was received is consumed, queued or dropped."""
    assert groups["received"] == groups["consumed"] + groups["queued"] + sum(groups["dropped"].values())
