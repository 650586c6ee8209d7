"""Demonstrations from JSON-lines files: given completions, for training in addition to sampled ones.

A row is ``{"prompt": ..., "completion": "..."}``; the prompt is text or a list of messages. Nothing is sampled. With
``[algorithm] type = "mixed"`` the tokens are trained by cross-entropy (``weight`` here, ``supervised_weight`` there);
with ``type = "distill"`` and ``estimator = "top_k"`` a teacher scores them: offline distillation.
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
class Example:
    """One row."""

    prompt: str | tuple[Message, ...]
    completion: str


class ExamplesEnvironment:
    """Prompts with completions to imitate, from a file."""

    name = "examples"
    version = "1"
    verifier = ""
    """The completions are given, so there is nothing to judge."""

    def __init__(self, *, path: str, weight: float = 1.0) -> None:
        """``weight`` of a token under the supervised objective; 0: only for distillation."""
        # Also refuses NaN, for which every comparison is false.
        if not 0 <= weight < float("inf"):
            raise InvalidRequest(f"weight: is {weight}; give a number from 0")
        self._weight = weight
        self._rows = {"train": read_rows(path, _row)}

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of examples."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Example ``index`` of the file, in the file's order; ``seed`` has no effect."""
        row, position = row_at(self._rows, self.name, split, index)
        given = (GivenCompletion(text=row.completion, supervised_weight=self._weight),)
        return task_of(self, split, index, seed, position, prompt=row.prompt, given=given)


def _row(row: Mapping[str, Any]) -> Example:
    return Example(prompt=prompt_field(row), completion=text_field(row, "completion"))
