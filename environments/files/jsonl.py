"""Tasks from the user's JSON-lines files, e.g. a line ``{"prompt": "2+2=", "answer": "4"}``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.environments.files.rows import (
    answer_field,
    checked_payload,
    optional_text,
    prompt_field,
    read_files,
    row_at,
    task_of,
)
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task of a file."""

    prompt: str | tuple[Message, ...]
    payload: bytes
    """JSON for the verifier."""
    completion: str = ""
    """A right completion to imitate; empty if the file has none."""


class JsonlEnvironment:
    """Single-turn tasks from files, for any registered verifier.

    A row has ``prompt``, which is text or a list of ``{"role": ..., "content": ...}``; ``answer``, text or a number or
    a list of them (the verifier gets ``{"answer": ...}``, numbers as text), or ``payload`` (passed to the verifier
    unchanged); and optionally ``completion``. A payload that the verifier would refuse is refused when the file is
    read.
    """

    name = "jsonl"
    version = "1"

    def __init__(self, *, path: str, validation_path: str = "", test_path: str = "", verifier: str = "exact") -> None:
        self.verifier = verifier
        files = {"train": path, "validation": validation_path, "test": test_path}
        self._rows = read_files(files, lambda row: _row(row, verifier))

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows of each file that was given."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Row ``index`` of the split's file, in the file's order; ``seed`` has no effect."""
        row, position = row_at(self._rows, self.name, split, index)
        return task_of(self, split, index, seed, position, prompt=row.prompt, payload=row.payload)

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Prompt and completion of a row. Raises InvalidRequest if it has no completion or its prompt is not text."""
        row, position = row_at(self._rows, self.name, split, index)
        if not (isinstance(row.prompt, str) and row.completion):
            raise InvalidRequest(
                f"completion: row {position} of split {split!r} has none, or its prompt is not plain text; "
                "fine-tuning needs both"
            )
        return row.prompt, row.completion


def _row(row: Mapping[str, Any], verifier: str) -> Row:
    # Neither, or both: with both, it would be unclear which one the verifier judges by.
    if ("answer" in row) == ("payload" in row):
        raise InvalidRequest("answer, payload: give exactly one of the two")
    prompt = prompt_field(row)
    payload = row["payload"] if "payload" in row else {"answer": answer_field(row)}
    return Row(prompt=prompt, payload=checked_payload(verifier, payload), completion=optional_text(row, "completion"))
