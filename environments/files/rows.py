"""Reads rows of JSON-lines files and checks them by their verifier's check; errors name file, line and column."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from rlserve import plugins
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.plugins import Environment
from rlserve.records import GivenCompletion, Message, Task
from rlserve.text_files import json_object, lines_of, read_text

R = TypeVar("R")

OTHER_NAMES = {
    "prompt": ("question", "problem", "instruction", "input", "query", "messages", "conversations"),
    "question": ("problem", "prompt", "instruction", "input", "query"),
    "problem": ("prompt", "instruction", "input", "query"),
    "answer": ("solution", "final_answer", "ground_truth", "expected_answer", "gold", "target", "label", "output"),
    "completion": ("response", "output", "answer", "chosen"),
    "chosen": ("accepted", "preferred", "response_j"),
    "rejected": ("dispreferred", "response_k"),
    "text": ("prompt", "question"),
    "code": ("solution", "canonical_solution"),
    "tests": ("test", "test_list", "test_cases", "inputs"),
}
"""Other common names of the columns: only for a hint in the error, never read instead."""
MAX_SHOWN_CHARACTERS = 80
"""Of a value in an error message. Any value of this size will do: a line for a person."""


def read_files(files: Mapping[str, str], parse: Callable[[Mapping[str, Any]], R]) -> dict[str, tuple[R, ...]]:
    """Return the rows of each split that has a file; ``files`` maps splits to paths, or to ``""``."""
    return {split: read_rows(file, parse) for split, file in files.items() if file}


def read_rows(path: str, parse: Callable[[Mapping[str, Any]], R]) -> tuple[R, ...]:
    """Every line of a file, parsed by ``parse``. Raises InvalidRequest, which names the line."""
    try:
        text = read_text(path)
    except InvalidRequest as error:
        raise InvalidRequest(f"path: {error}; give a JSON-lines file", field="path") from None
    rows = []
    for number, line in lines_of(text):
        try:
            # Every row when the file is read: a fault in row 7,000 would otherwise come up hours into a run.
            rows.append(parse(json_object(line)))
        except InvalidRequest as error:
            # from None: the cause is in the message already, with the place that the user needs.
            raise InvalidRequest(f"path: {path!r}, line {number}: {error}", field="path") from None
    if not rows:
        raise InvalidRequest(f"path: {path!r} has no rows; give a JSON-lines file")
    return tuple(rows)


def row_at(rows: Mapping[str, Sequence[R]], environment: str, split: str, index: int) -> tuple[R, int]:
    """Return the row of a split at ``index``, which wraps around, and its position. Raises UnknownName."""
    if split not in rows:
        raise UnknownName(f"split: {split!r} is not one of {environment} ({', '.join(rows)})")
    # Indices count on through the epochs of a run; the task's id names the row, so that epochs share it.
    position = index % len(rows[split])
    return rows[split][position], position


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
    """Return the task of the row at ``position`` of a split's file."""
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


def text_field(row: Mapping[str, Any], name: str) -> str:
    """A required text that is not blank. Raises InvalidRequest."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{name}: is {_shown(value)}; give text{_hint(row, name)}")
    return _sendable(value, name)


def optional_text(row: Mapping[str, Any], name: str) -> str:
    """An optional text; "" if it is empty, null or missing. Raises InvalidRequest."""
    value = row.get(name)
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: is {_shown(value)}; give text, or leave it out")
    return _sendable(value, name)


def answer_field(row: Mapping[str, Any], name: str = "answer") -> str | list[str]:
    """An accepted answer, or a list of them: text or numbers, which become text. Raises InvalidRequest."""
    value = row.get(name)
    if not isinstance(value, list):
        return _answer(row, name, value)
    if not value:
        raise InvalidRequest(f"{name}: is []; give at least one answer")
    return [_answer(row, name, item) for item in value]


def texts_field(row: Mapping[str, Any], name: str) -> list[str]:
    """Lines of source: a text, or a list of texts; empty if null, empty or missing. Raises InvalidRequest."""
    # "" and null: tables write either for an empty cell.
    value = row.get(name) or []
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str) for line in lines):
        raise InvalidRequest(f"{name}: is {_shown(value)}; give text or a list of texts")
    return [line for line in lines if line.strip()]


def prompt_field(row: Mapping[str, Any]) -> str | tuple[Message, ...]:
    """Return a prompt, which is text or messages. Raises InvalidRequest."""
    messages = row.get("prompt")
    if not isinstance(messages, list):
        return text_field(row, "prompt")
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest(f"prompt: is {_shown(messages)}; give text or a list of role and content objects")
    return tuple(_message(message, index) for index, message in enumerate(messages))


def checked_payload(verifier: str, payload: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> bytes:
    """The payload as bytes, if the verifier accepts it; ``columns`` maps fields of the payload to columns.

    Raises InvalidRequest, which names the column: a row that the verifier refuses would waste rollouts.
    """
    data = json.dumps(payload).encode()
    try:
        if (check := _check(verifier)) is not None:
            check(data)
    except InvalidRequest as error:
        # The verifier's message names the field of the payload; the author of the file needs the column.
        message = str(error).removeprefix("payload.")
        for field, column in (columns or {}).items():
            if message.startswith(field):
                message = column + message.removeprefix(field)
        raise InvalidRequest(message) from None
    return data


@lru_cache(maxsize=32)
def _check(verifier: str) -> Callable[[bytes], None] | None:
    """The check of a verifier, cached: searching the installed packages takes as long as a thousand rows."""
    return plugins.payload_check(verifier)


def prompt_format_option(environment: str, value: str) -> str:
    """Check that ``value`` is ``"chat"`` or ``"text"``. Raises InvalidRequest."""
    if value not in ("chat", "text"):
        raise InvalidRequest(f'{environment}.prompt_format: is {value!r}; give "chat" or "text"')
    return value


def _message(message: Mapping[str, Any], index: int) -> Message:
    try:
        role, calls = text_field(message, "role"), _tool_calls(message)
        # A tool may return nothing, and a turn of calls may have no text.
        may_be_empty = role == "tool" or calls
        return Message(
            role=role,
            content=(optional_text if may_be_empty else text_field)(message, "content"),
            tool_call_id=optional_text(message, "tool_call_id"),
            tool_calls=calls,
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{error} (prompt[{index}])") from None


def _tool_calls(message: Mapping[str, Any]) -> tuple[str, ...]:
    """Calls as JSON text: ``{"id": ..., "function": {"name": ..., "arguments": {...}}}``, or just the function."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InvalidRequest(f"tool_calls: is {_shown(calls)}; give a list of calls")
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f'tool_calls: has {_shown(call)}; give {{"name": ..., "arguments": {{...}}}}')
    return tuple(_sendable(json.dumps(call, ensure_ascii=False), "tool_calls") for call in calls)


def _answer(row: Mapping[str, Any], name: str, value: Any) -> str:
    # true is an int for Python, and NaN equals no answer.
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        try:
            return str(value)
        except ValueError:  # Python writes no integer of more than 4,300 digits
            raise InvalidRequest(f"{name}: is a number of too many digits; give it as text") from None
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{name}: is {_shown(value)}; give text or a number{_hint(row, name)}")
    return _sendable(value, name)


def _sendable(text: str, name: str) -> str:
    # JSON may contain a lone surrogate, "\ud83d"; protobuf strings are UTF-8 and cannot.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name}: has {text[error.start]!a}, half of a surrogate pair; write the other half, too"
        ) from None
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."


def _hint(row: Mapping[str, Any], name: str) -> str:
    # Only where the wanted column is missing: next to a present one, a similar name is no mistake.
    near: Iterable[str] = (other for other in OTHER_NAMES.get(name, ()) if other in row)
    other = next(iter(near), None)
    return "" if other is None or row.get(name) else f" (the row has {other!r}: rename that column to {name!r})"
