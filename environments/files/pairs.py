"""The environment ``pairs``: preference pairs from JSON-lines files, for offline training by the same stream of groups.

A row is ``{"prompt": ..., "chosen": "...", "rejected": "..."}``; the prompt is text or a list of messages. Nothing is
sampled: both completions come with the task. ``rlserve pairs`` writes such files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.environments.files.conversation import prompt_field
from rlserve.environments.files.fields import text_field
from rlserve.environments.files.rows import read_rows, row_at, task_of
from rlserve.errors import InvalidRequest
from rlserve.records import GivenCompletion, Message, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One row."""

    prompt: str | tuple[Message, ...]
    chosen: str
    rejected: str


class PairsEnvironment:
    """Preference pairs from a file; for losses on pairs with ``pairs.selection = "given"``."""

    name = "pairs"
    version = "1"
    verifier = ""
    """Which completion is better is given, so there is nothing to judge."""

    def __init__(self, *, path: str) -> None:
        self._rows = {"train": read_rows(path, _row)}

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of pairs."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Pair ``index`` of the file, in the file's order; ``seed`` has no effect."""
        row, position = row_at(self._rows, self.name, split, index)
        given = (
            GivenCompletion(text=row.chosen, chosen=True),
            GivenCompletion(text=row.rejected, chosen=False),
        )
        return task_of(self, split, index, seed, position, prompt=row.prompt, given=given)


def _row(row: Mapping[str, Any]) -> Pair:
    pair = Pair(prompt=prompt_field(row), chosen=text_field(row, "chosen"), rejected=text_field(row, "rejected"))
    # Equal completions have equal log-probabilities: the pair's gradient is 0, and its accuracy metric a coin toss.
    if pair.chosen == pair.rejected:
        raise InvalidRequest(f"chosen, rejected: both are {pair.chosen[:80]!r}; a pair needs two different completions")
    return pair
