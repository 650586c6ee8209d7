"""What the look at a configuration found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or odd."""

    message: str
    """``"key: what it was; what to do"``."""
    is_fault: bool = True
    """A run cannot work; else it starts, and this is a warning."""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Finding":
        """Back from plain data."""
        return cls(message=str(values["message"]), is_fault=values["is_fault"] is True)


def warning(message: str) -> Finding:
    """A finding with which a run starts all the same."""
    return Finding(message, is_fault=False)
