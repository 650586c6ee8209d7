"""Files of cases for ``rlserve verify``: JSON lines in one form for every verifier, and shorter ones for two."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.text_files import json_object, lines_of, read_text

FORMATS = """\
A case is one JSON object per line. Every verifier takes:

  {"id": "1", "completion": "so it is 42", "payload": {"answer": "42"}, "prompt": "6*7?"}

  verifiers/README.md documents each verifier's payload; prompt is optional.

math also takes an answer (or a text that contains one) and the gold answer:

  {"id": "1", "gold": "1/2", "answer": "0.5"}

code also takes a program (without text around it) and its tests; kind is "function" or "stdio":

  {"id": "1", "kind": "function", "prompt_entry_point": "f", "completion": "def f(): ...", "tests": "assert f() == 1"}
  {"id": "2", "kind": "stdio", "completion": "print(input())", "tests": [{"input": "1", "output": "1"}]}

A case may have an "expected" outcome (true, false or an outcome), and "accept" a list of others; the summary counts the
verdicts that agree. Outcomes are pass, fail, timeout, error (memory, output limit, crash or rejected) and no_verdict.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the file."""

    case_id: str
    completion: str
    payload: bytes
    prompt: str
    accepted: frozenset[str] | None
    """Expected outcomes, as written in the file; None if the case expects none."""


def read_cases(kind: str, path: Path) -> Iterator[Case]:
    """The cases of a file. Raises InvalidRequest, which names line and field."""
    try:
        text = read_text(path)
    except InvalidRequest as error:
        raise InvalidRequest(f"cases: {error}; give a file of JSON lines") from None
    for number, line in lines_of(text):
        try:
            yield _case(kind, json_object(line))
        except InvalidRequest as error:
            raise InvalidRequest(f"cases: line {number} is not a case for {kind} ({error})") from None


def _case(kind: str, row: Mapping[str, Any]) -> Case:
    case_id = row.get("id")
    # bool is an int in Python; `true` as an id is a mistake.
    if isinstance(case_id, bool) or not isinstance(case_id, str | int):
        raise InvalidRequest(f"id: is {_shown(row, 'id')}; give a text or a number")
    completion, payload = _judged(kind, row)
    prompt = row.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise InvalidRequest(f"prompt: is {_shown(row, 'prompt')}; give text, or leave it out")
    return Case(
        case_id=str(case_id),
        completion=completion,
        payload=dumps(payload).encode(),
        prompt=prompt or "",
        accepted=_accepted(row),
    )


def _judged(kind: str, row: Mapping[str, Any]) -> tuple[str, Any]:
    """The completion and the payload."""
    if "payload" in row:
        return _text(row, "completion"), row["payload"]
    if kind == "math" and ("gold" in row or "answer" in row):
        # bare: the text is the answer itself, so that the verifier looks for no announcement of one.
        return _text(row, "answer"), {"answer": _gold(row), "bare": True}
    if kind == "code" and "tests" in row:
        payload = {"kind": row.get("kind"), "entry_point": row.get("prompt_entry_point") or "", "tests": row["tests"]}
        # The short form has a program without text around it: a fence inside a string of it must not be taken for a
        # block.
        return _text(row, "completion"), payload | {"extract": False}
    short = {"math": ", or gold and answer", "code": ", or completion, kind and tests"}.get(kind, "")
    raise InvalidRequest(
        f"payload: is missing; give completion and payload{short} (rlserve verify --help has examples)"
    )


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: is {_shown(row, field)}; give the text to verify")
    return value


def _gold(row: Mapping[str, Any]) -> Any:
    """The gold answer, or a list of accepted ones; numbers become text."""
    gold = row.get("gold")
    golds = gold if isinstance(gold, list) else [gold]
    if not golds or any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in golds):
        raise InvalidRequest(f"gold: is {_shown(row, 'gold')}; give the right answer")
    return [str(item) for item in golds] if isinstance(gold, list) else str(gold)


def _accepted(row: Mapping[str, Any]) -> frozenset[str] | None:
    expected, others = row.get("expected"), row.get("accept", [])
    if expected is None:
        return None
    if isinstance(expected, bool):
        # A wrong program may also crash or run out of time; "no_verdict" is missing on purpose, since it judges
        # nothing.
        return frozenset(["pass"] if expected else ["fail", "timeout", "error"])
    if not isinstance(expected, str):
        raise InvalidRequest(f"expected: is {_shown(row, 'expected')}; give true, false or an outcome")
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise InvalidRequest(f"accept: is {_shown(row, 'accept')}; give a list of outcomes")
    return frozenset([expected, *others])


def _shown(row: Mapping[str, Any], field: str) -> str:
    # ascii(): the file is untrusted, and control characters would move the terminal's cursor.
    return ascii(row[field])[:60] if field in row else "missing"
