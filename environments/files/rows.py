"""Reads rows of files and checks them by their verifier's check; errors name file, row and column."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from rlserve import plugins
from rlserve.data.source import Row, Source, read
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.plugins import Environment
from rlserve.records import GivenCompletion, Message, Task, Tool

R = TypeVar("R")


def read_files(files: Mapping[str, str | Source], parse: Callable[[Row], R]) -> dict[str, tuple[R, ...]]:
    """Return the rows of each split that has a file; ``files`` maps splits to paths or sources, or to ``""``."""
    return {split: read_rows(file, parse) for split, file in files.items() if file}


def read_rows(file: str | Source, parse: Callable[[Row], R]) -> tuple[R, ...]:
    """Every row of a file, parsed by ``parse``. Raises InvalidRequest, which names the row."""
    source = Source(path=file) if isinstance(file, str) else file
    rows = []
    for place, row in read(source):
        try:
            # Every row when the file is read: a fault in row 7,000 would otherwise come up hours into a run.
            rows.append(parse(row))
        except InvalidRequest as error:
            # from None: the cause is in the message already, with the place that the user needs.
            raise InvalidRequest(f"path: {source.path!r}, {place}: {error}", field="path") from None
    if not rows:
        where = "" if source.split == "train" else f" in its split {source.split!r}"
        raise InvalidRequest(f"path: {source.path!r} has no rows{where}; give a file with rows", field="path")
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
    tools: tuple[Tool, ...] = (),
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
        tools=tools,
    )


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
