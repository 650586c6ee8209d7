"""The environment ``code_jsonl``: programming tasks from JSON-lines files; the base of ``mbpp`` and ``humaneval``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.environments.files.fields import optional_text, text_field
from rlserve.environments.files.rows import checked_payload, prompt_format_option, read_files, row_at
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task

INSTRUCTION = "Write the solution in Python, as one fenced code block."
KINDS = ("function", "calls", "stdio")
PAYLOAD = ("kind", "entry_point", "tests", "prefix", "extract", "partial", "cpu_seconds", "memory_bytes")
"""Columns that go to the verifier unchanged."""
MAX_CPU_SECONDS = 3600
"""As in the verifier's payload: refused here, before any task is sampled."""
MAX_ID_CHARACTERS = 60
"""Of a prompt that serves as the id of a row without one. Any value of this size will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRow:
    """One programming task."""

    task_id: str
    prompt: str
    payload: Mapping[str, Any]
    """For the verifier ``code``, which documents the fields."""
    solution: str = ""
    """A right program; empty if the file has none."""


class CodeEnvironment:
    """Base of the programming environments: rows, prompts, tasks.

    ``prompt_format``: ``"chat"`` is one user message, the task and ``instruction``; ``"text"`` is only the task, for a
    completion model to continue.
    """

    name = ""
    version = "1"
    verifier = "code"

    def __init__(
        self,
        rows: Mapping[str, tuple[CodeRow, ...]],
        *,
        prompt_format: str,
        instruction: str,
        cpu_seconds: float | None,
    ) -> None:
        if cpu_seconds is not None and not 0 < cpu_seconds <= MAX_CPU_SECONDS:
            raise InvalidRequest(
                f"{self.name}.cpu_seconds: is {cpu_seconds}; give a number above 0, at most {MAX_CPU_SECONDS}"
            )
        self._rows = rows
        self._prompt_format = prompt_format_option(self.name, prompt_format)
        self._instruction = instruction
        # Put over the row's own: the option of a run goes before the file.
        self._limits = {} if cpu_seconds is None else {"cpu_seconds": cpu_seconds}

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows of each file that was given."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Row ``index`` of the split's file, in the file's order; ``seed`` has no effect."""
        row, _ = row_at(self._rows, self.name, split, index)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=row.task_id,
            prompt=self._prompt(row),
            verifier=self.verifier,
            # The operator's limit replaces the row's, which was chosen for another machine.
            payload=json.dumps({**row.payload, **self._limits}).encode(),
            seed=seed,
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Prompt as text and a right program. Raises InvalidRequest if the row has none."""
        row, position = row_at(self._rows, self.name, split, index)
        if not row.solution:
            raise InvalidRequest(f"{self.name}: row {position} of split {split!r} has no solution to imitate")
        return row.prompt, row.solution

    def _prompt(self, row: CodeRow) -> str | tuple[Message, ...]:
        if self._prompt_format == "text":
            return row.prompt
        return (Message(role="user", content=f"{row.prompt}\n\n{self._instruction}"),)


class CodeJsonlEnvironment(CodeEnvironment):
    """Programming tasks: columns ``prompt``, ``tests``, and ``kind`` (``function``, ``calls`` or ``stdio``).

    ``function``: ``tests`` is Python source of asserts; ``calls``: ``entry_point`` and a list of ``{args, output}``;
    ``stdio``: a list of ``{input, output}``. Optional: ``task_id``, ``solution``, and ``prefix``, ``partial``,
    ``extract``, ``cpu_seconds``, ``memory_bytes``, which go to the verifier. A row that the verifier would refuse is
    refused when the file is read.
    """

    name = "code_jsonl"

    def __init__(
        self,
        *,
        path: str,
        validation_path: str = "",
        test_path: str = "",
        prompt_format: str = "chat",
        instruction: str = INSTRUCTION,
        cpu_seconds: float | None = None,
    ) -> None:
        rows = read_files({"train": path, "validation": validation_path, "test": test_path}, _row)
        super().__init__(rows, prompt_format=prompt_format, instruction=instruction, cpu_seconds=cpu_seconds)


def code_row(
    *, task_id: str, prompt: str, payload: Mapping[str, Any], solution: str, columns: Mapping[str, str] | None = None
) -> CodeRow:
    """A row whose payload the verifier accepts; ``columns`` as for ``checked_payload``. Raises InvalidRequest."""
    checked_payload(CodeEnvironment.verifier, payload, columns)
    return CodeRow(task_id=task_id, prompt=prompt, payload=payload, solution=solution)


def _row(row: Mapping[str, Any]) -> CodeRow:
    kind = row.get("kind")
    if kind not in KINDS:
        raise InvalidRequest(f"kind: is {kind!r}; give one of {', '.join(KINDS)}")
    if not row.get("tests"):
        raise InvalidRequest("tests: is empty; give asserts, calls, or inputs and outputs")
    prompt = text_field(row, "prompt")
    return code_row(
        task_id=str(row.get("task_id") or prompt[:MAX_ID_CHARACTERS]),
        prompt=prompt,
        # Columns that are null count as missing: files written from tables have a null in every empty cell.
        payload={name: row[name] for name in PAYLOAD if row.get(name) is not None},
        solution=optional_text(row, "solution"),
    )
