"""Base of all algorithm sections, and the section of an installed plug-in."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from rlserve.config.base import Section


class AlgorithmSection(Section):
    """Base of the ``[algorithm]`` section; ``type`` is the registered name."""

    type: str

    def problems(self, *, group_size: int, max_new_tokens: int) -> Iterator[str]:
        """Contradictions to ``[rollout]``, as messages "field: what it was; what to do"."""
        yield from ()


class PluginAlgorithmConfig(AlgorithmSection):
    """An algorithm of an installed package, found by its entry point; it checks its own options."""

    type: str
    """Its registered name, or a class in a file of yours (``"my_loss.py:Loss"``)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Read by the algorithm."""
