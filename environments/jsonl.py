"""Tasks from JSON-lines files that the user names, e.g. ``{"prompt": "2+2=", "answer": "4"}`` a line."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlserve.errors import InvalidRequest, UnknownName
from rlserve.plugins import Environment
from rlserve.records import GivenCompletion, Message, Task

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task of a file."""

    prompt: str | tuple[Message, ...]
    payload: bytes
    """JSON for the verifier."""
    completion: str = ""
    """A right completion to imitate; empty when the file has none."""


class JsonlEnvironment:
    """Single-turn tasks from files; any registered verifier judges them.

    A row has ``prompt``, which is text or a list of ``{"role": ..., "content": ...}``; ``answer`` (the verifier
    gets ``{"answer": ...}``) or ``payload`` (it gets that value as it is); and, if wanted, ``completion``.
    """

    name = "jsonl"
    version = "1"

    def __init__(self, *, path: str, validation_path: str = "", test_path: str = "", verifier: str = "exact") -> None:
        self.verifier = verifier
        files = {"train": path, "validation": validation_path, "test": test_path}
        self._rows = {split: read_rows(file, _row) for split, file in files.items() if file}

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows of each file that was given."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Row ``index`` of the split's file, in the file's order; ``seed`` changes nothing."""
        row, position = row_at(self._rows, self.name, split, index)
        return task_of(self, split, index, seed, position, prompt=row.prompt, payload=row.payload)

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Prompt and completion of a row. Raises InvalidRequest when it has no text to imitate."""
        row, position = row_at(self._rows, self.name, split, index)
        if not (isinstance(row.prompt, str) and row.completion):
            raise InvalidRequest(
                f"completion: row {position} of split {split!r} has none, or its prompt is no plain text; "
                "give both to learn by imitation"
            )
        return row.prompt, row.completion


def task_of(
    environment: Environment,
    split: str,
    index: int,
    seed: int,
    position: int,
    *,
    prompt: str | tuple[Message, ...],
    payload: bytes = b"",
    given: tuple[GivenCompletion, ...] = (),
) -> Task:
    """The task of the row at ``position`` of a split's file."""
    return Task(
        environment=environment.name,
        environment_version=environment.version,
        split=split,
        index=index,
        task_id=f"{split}/{position}",
        prompt=prompt,
        verifier=environment.verifier,
        payload=payload,
        seed=seed,
        given=given,
    )


def read_rows(path: str, parse: Callable[[Mapping[str, Any]], R]) -> tuple[R, ...]:
    """Every line of a file as ``parse`` understands it. Raises InvalidRequest that names the line."""
    try:
        # Not splitlines(), which also breaks at U+2028 and its like inside of JSON strings.
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"path: {path!r} cannot be read ({error}); give a JSON-lines file") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse(_object(line)))
        except InvalidRequest as error:
            raise InvalidRequest(f"path: {path!r}, line {number}: {error}", field="path") from None
    if not rows:
        raise InvalidRequest(f"path: {path!r} has no rows; give a JSON-lines file")
    return tuple(rows)


def row_at(rows: Mapping[str, Sequence[R]], environment: str, split: str, index: int) -> tuple[R, int]:
    """The row of a split at ``index``, which wraps around, and its position. Raises UnknownName."""
    if split not in rows:
        raise UnknownName(f"split: {split!r} is not one of {environment} ({', '.join(rows)})")
    position = index % len(rows[split])
    return rows[split][position], position


def text_field(row: Mapping[str, Any], name: str) -> str:
    """A field that must be text and not blank. Raises InvalidRequest."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{name}: is {value!r}; give text")
    return value


def _object(line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"is a JSON {type(value).__name__}; give an object")
    return value


def _row(row: Mapping[str, Any]) -> Row:
    if ("answer" in row) == ("payload" in row):
        raise InvalidRequest("answer, payload: give exactly one of the two")
    payload = row["payload"] if "payload" in row else {"answer": text_field(row, "answer")}
    completion = text_field(row, "completion") if "completion" in row else ""
    return Row(prompt=prompt_field(row), payload=json.dumps(payload).encode(), completion=completion)


def prompt_field(row: Mapping[str, Any]) -> str | tuple[Message, ...]:
    """A prompt: text, or messages. Raises InvalidRequest."""
    messages = row.get("prompt")
    if not isinstance(messages, list):
        return text_field(row, "prompt")
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest(f"prompt: is {messages!r}; give text or a list of role and content objects")
    return tuple(Message(role=text_field(m, "role"), content=text_field(m, "content")) for m in messages)
