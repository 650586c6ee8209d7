"""Reads the cells of one row: text, answers, lines; an error names the column and shows the value."""

import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from rlserve.errors import InvalidRequest

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
CONVERSATIONS = ("messages", "conversations")
MAX_SHOWN_CHARACTERS = 80
"""Of a value in an error message. Any value of this size will do: a line for a person."""


def text_field(row: Mapping[str, Any], name: str, *, option: str = "") -> str:
    """A required text that is not blank; ``option`` is what names the column. Raises InvalidRequest."""
    value = required(row, name, option)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{name}: is {shown(value)}; give text")
    return sendable(value, name)


def required(row: Mapping[str, Any], name: str, option: str = "") -> Any:
    """The value of a column. Raises InvalidRequest, which names the columns that are there."""
    if name in row:
        return row[name]
    # Only where the wanted column is missing: next to a present one, a similar name is no mistake.
    near = next((other for other in OTHER_NAMES.get(name, ()) if other in row), None)
    if option == "prompt_key" and near in CONVERSATIONS:
        option = "messages_key"
    fix = f"set {option} = {near!r}" if option else f"rename that column to {name!r}"
    hint = f"; the row has {near!r}: {fix}" if near else f"; name another with {option}" if option else ""
    there = ", ".join(map(str, row))
    raise InvalidRequest(f"{name}: is missing (there are: {shown(there)[1:-1] or 'no columns'}){hint}")


def optional_text(row: Mapping[str, Any], name: str) -> str:
    """An optional text; "" if it is empty, null or missing. Raises InvalidRequest."""
    value = row.get(name)
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: is {shown(value)}; give text, or leave it out")
    return sendable(value, name)


def answer_field(row: Mapping[str, Any], name: str = "answer", *, option: str = "") -> str | list[str]:
    """An accepted answer, or a list of them: text or numbers, which become text. Raises InvalidRequest."""
    value = required(row, name, option)
    if not isinstance(value, list):
        return _answer(name, value)
    if not value:
        raise InvalidRequest(f"{name}: is []; give at least one answer")
    return [_answer(name, item) for item in value]


def texts_field(row: Mapping[str, Any], name: str) -> list[str]:
    """Lines of source: a text, or a list of texts; empty if null, empty or missing. Raises InvalidRequest."""
    # "" and null: tables write either for an empty cell.
    value = row.get(name) or []
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str) for line in lines):
        raise InvalidRequest(f"{name}: is {shown(value)}; give text or a list of texts")
    return [line for line in lines if line.strip()]


def sendable(text: str, name: str) -> str:
    """The text, if it can be sent. Raises InvalidRequest."""
    # JSON may contain a lone surrogate, "\ud83d"; protobuf strings are UTF-8 and cannot.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name}: has {text[error.start]!a}, half of a surrogate pair; write the other half, too"
        ) from None
    return text


def shown(value: object) -> str:
    """A value for an error message, cut."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."


def _answer(name: str, value: Any) -> str:
    # true is an int for Python, and NaN equals no answer.
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        try:
            return str(value)
        except ValueError:  # Python writes no integer of more than 4,300 digits
            raise InvalidRequest(f"{name}: is a number of too many digits; give it as text") from None
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{name}: is {shown(value)}; give text or a number")
    return sendable(value, name)


def plain(value: Any, name: str) -> Any:
    """A value as JSON can hold it: NaN and infinities as null, dates as ISO text. Raises InvalidRequest for bytes."""
    if isinstance(value, dict):
        return {str(key): plain(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, date | time | Decimal):
        return value.isoformat() if not isinstance(value, Decimal) else str(value)
    raise InvalidRequest(
        f"{name}: holds {type(value).__name__}, which no function can be sent; list the columns to send in `columns`"
    )
