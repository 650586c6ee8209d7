"""A fault or a warning about a configuration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault or warning."""

    message: str
    """``"key: what it was; what to do"``."""
    is_fault: bool = True
    """True: a run cannot work. False: it starts with this warning."""

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Finding":
        """A finding from JSON values."""
        return cls(message=str(values["message"]), is_fault=values["is_fault"] is True)


def warning(message: str) -> Finding:
    """A finding that does not keep a run from starting."""
    return Finding(message, is_fault=False)
