"""The environment ``dataset``: tasks from any data set, for any verifier."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from rlserve.data.source import Row, Source, read
from rlserve.environments.files.conversation import messages_of, prompt_field, tools_of
from rlserve.environments.files.fields import answer_field, optional_text, plain, required, text_field
from rlserve.environments.files.rows import checked_payload, read_rows, row_at, task_of
from rlserve.environments.files.template import Template
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task, Tool

FORMATS = ("", "chat", "text")
PARTS = 2**64
"""The hash of a prompt is a number below this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRow:
    """One task."""

    prompt: str | tuple[Message, ...]
    payload: bytes
    """JSON for the verifier."""
    completion: str = ""
    """A right completion to imitate; empty if the row has none."""
    tools: tuple[Tool, ...] = ()
    columns: Row = field(default_factory=dict)
    """The row itself, for reward functions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """How a row becomes a task: which columns are what."""

    prompt_key: str
    messages_key: str
    template: Template | None
    system: str
    is_chat: bool
    """Whether a prompt of text is sent as a message of the user."""
    answer_key: str
    completion_key: str
    tools_key: str
    verifier: str

    def task_row(self, row: Row) -> DatasetRow:
        """Raises InvalidRequest, which names the column."""
        prompt, completion = self._prompt(row)
        tools = tools_of(row[self.tools_key], self.tools_key) if self.tools_key in row else ()
        return DatasetRow(
            prompt=prompt,
            payload=self._payload(row),
            completion=completion or optional_text(row, self.completion_key),
            tools=tools,
            columns=row,
        )

    def _prompt(self, row: Row) -> tuple[str | tuple[Message, ...], str]:
        """The prompt, and the completion if the prompt's column has one."""
        completion = ""
        if self.template:
            prompt: str | tuple[Message, ...] = self.template.fill(row)
        elif self.messages_key:
            required(row, self.messages_key, "messages_key")
            prompt = messages_of(row[self.messages_key], self.messages_key)
            # Conversations to imitate end with the answer; the policy has to find it.
            if prompt[-1].role == "assistant" and len(prompt) > 1:
                prompt, completion = prompt[:-1], prompt[-1].content
        elif isinstance(row.get(self.prompt_key), list):
            prompt = prompt_field(row, self.prompt_key)
        else:
            prompt = text_field(row, self.prompt_key, option="prompt_key")
        if isinstance(prompt, str) and self.is_chat:
            prompt = (Message(role="user", content=prompt),)
        if self.system and not isinstance(prompt, str) and prompt[0].role != "system":
            prompt = (Message(role="system", content=self.system), *prompt)
        return prompt, completion

    def _payload(self, row: Row) -> bytes:
        if "payload" in row and self.answer_key in row:
            raise InvalidRequest(f"{self.answer_key}, payload: give exactly one of the two")
        if "payload" in row:
            payload = row["payload"]
            is_text = isinstance(payload, str) and payload.lstrip().startswith("{")
            return checked_payload(self.verifier, json.loads(payload) if is_text else payload)
        # Without a verifier functions reward the tasks, by columns; nothing need be an answer.
        if not self.verifier:
            return b"{}"
        if self.answer_key in row:
            answer = {"answer": answer_field(row, self.answer_key)}
            try:
                return checked_payload(self.verifier, answer, {"answer": self.answer_key})
            except InvalidRequest as error:
                # A verifier of the form or the length of a text takes no answer, whatever the data set has.
                if not str(error).startswith(f"{self.answer_key}: is unknown"):
                    raise
        try:
            return checked_payload(self.verifier, {})
        except InvalidRequest as error:
            if str(error).startswith("answer"):
                required(row, self.answer_key, "answer_key")
            raise


class DatasetEnvironment:
    """Single-turn tasks from a data set: JSON lines, CSV, Parquet, a saved or Hub-shaped folder, a Hub name.

    Where the rows are: ``path``, ``name`` (a Hub repository's configuration), ``split``, ``revision``. Held out:
    ``test_split``, ``test_path`` or ``test_fraction``, and ``validation_split`` or ``validation_path``.

    What the columns are: the prompt is ``template``, a text with ``{column}`` in it, or the column ``messages_key``, a
    conversation, or the column ``prompt_key``, a text or a conversation. ``prompt_format = "chat"`` sends a text as a
    message of the user, and so does ``system``, a message put in front. ``tools_key`` is the column of tools offered;
    ``answer_key`` that of the right answer, a text, a number or a list; ``completion_key`` that of one to imitate.

    ``verifier``, by default ``math`` where there is an answer, gets ``{"answer": ...}``; a column ``payload`` goes to
    it unchanged instead. A row that the verifier would refuse is refused when it is read. Reward functions get all
    columns, or those that ``columns`` lists.
    """

    name = "dataset"
    version = "1"

    def __init__(
        self,
        *,
        path: str,
        name: str = "",
        split: str = "train",
        revision: str = "",
        validation_split: str = "",
        validation_path: str = "",
        test_split: str = "",
        test_path: str = "",
        test_fraction: float = 0.0,
        prompt_key: str = "prompt",
        messages_key: str = "",
        template: str = "",
        prompt_format: str = "",
        system: str = "",
        tools_key: str = "tools",
        answer_key: str = "answer",
        completion_key: str = "completion",
        columns: Sequence[str] | None = None,
        verifier: str | None = None,
    ) -> None:
        _check_choices(prompt_format, system, template, messages_key)
        source = Source(path=path, name=name, split=split, revision=revision, texts=(prompt_key, answer_key))
        if verifier is None:
            verifier = _usual_verifier(source, answer_key)
        self.verifier = verifier
        self._sent = columns
        self._columns = Columns(
            prompt_key=prompt_key,
            messages_key=messages_key,
            template=Template(template) if template else None,
            system=system,
            is_chat=prompt_format == "chat" or bool(system),
            answer_key=answer_key,
            completion_key=completion_key,
            tools_key=tools_key,
            verifier=verifier,
        )
        held_out = {
            "validation": _held_out(source, "validation", validation_split, validation_path),
            "test": _held_out(source, "test", test_split, test_path),
        }
        if test_fraction and held_out["test"]:
            raise InvalidRequest("test_fraction: is given beside a test_split or a test_path; give one of them")
        self._rows = {"train": self._read("split", source)}
        if test_fraction:
            self._rows = _divided(self._rows["train"], test_fraction)
        self._rows |= {key: self._read(f"{key}_split", part) for key, part in held_out.items() if part}

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows of each split that was given."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Row ``index`` of the split, in the order of its source; ``seed`` has no effect."""
        row, position = row_at(self._rows, self.name, split, index)
        return task_of(self, split, index, seed, position, prompt=row.prompt, payload=row.payload, tools=row.tools)

    def columns(self, split: str, index: int, seed: int) -> Mapping[str, Any]:
        """The row's columns, for reward functions. Raises InvalidRequest for one that cannot be sent."""
        row = row_at(self._rows, self.name, split, index)[0].columns
        return {name: plain(row[name], name) for name in (row if self._sent is None else self._sent) if name in row}

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Prompt and completion of a row. Raises InvalidRequest if it has no completion or its prompt is not text."""
        row, position = row_at(self._rows, self.name, split, index)
        if not (isinstance(row.prompt, str) and row.completion):
            raise InvalidRequest(
                f"completion: row {position} of split {split!r} has none, or its prompt is not plain text; "
                "fine-tuning needs both"
            )
        return row.prompt, row.completion

    def _read(self, option: str, source: Source) -> tuple[DatasetRow, ...]:
        try:
            return read_rows(source, self._columns.task_row)
        except InvalidRequest as error:
            # The message of a split names the option that gave it.
            if error.field == "split":
                raise InvalidRequest(f"{option}{str(error).removeprefix('split')}", field=option) from None
            raise


def _usual_verifier(source: Source, answer_key: str) -> str:
    """``math`` for rows with an answer; none if the first row has no such column, for functions to reward the tasks."""
    first = next((row for _, row in read(source)), {})
    return "math" if answer_key != "answer" or {answer_key, "payload"} & set(first) else ""


def _check_choices(prompt_format: str, system: str, template: str, messages_key: str) -> None:
    if prompt_format not in FORMATS:
        raise InvalidRequest(f'prompt_format: is {prompt_format!r}; give "chat" or "text"', field="prompt_format")
    if prompt_format == "text" and system:
        raise InvalidRequest('prompt_format: is "text", which has no place for `system`; leave one of them out')
    if template and messages_key:
        raise InvalidRequest(f"template: is given beside messages_key = {messages_key!r}; leave one of them out")


def _held_out(source: Source, kind: str, split: str, path: str) -> Source | None:
    if split and path:
        raise InvalidRequest(f"{kind}_split: is {split!r} beside {kind}_path = {path!r}; give one of the two")
    if split == source.split:
        raise InvalidRequest(
            f"{kind}_split: is {split!r}, which training draws from; give another", field=f"{kind}_split"
        )
    if path:
        return Source(path=path, texts=source.texts)
    return replace(source, split=split) if split else None


def _divided(rows: tuple[DatasetRow, ...], fraction: float) -> dict[str, tuple[DatasetRow, ...]]:
    """The rows as ``train`` and ``test``. The prompt decides, so that one that is there twice is in one of them."""
    if not 0 < fraction < 1:
        raise InvalidRequest(f"test_fraction: is {fraction}; give a share between 0 and 1", field="test_fraction")
    marked = [(_share(row.prompt) < fraction, row) for row in rows]
    parts = {
        "train": tuple(row for is_test, row in marked if not is_test),
        "test": tuple(row for is_test, row in marked if is_test),
    }
    for split, part in parts.items():
        if not part:
            raise InvalidRequest(
                f"test_fraction: {fraction} of {len(rows)} rows leaves none for {split}; give another share",
                field="test_fraction",
            )
    return parts


def _share(prompt: str | tuple[Message, ...]) -> float:
    """Where a prompt lies between 0 and 1: the same on every machine, and evenly spread."""
    return int.from_bytes(blake2b(repr(prompt).encode(), digest_size=8).digest(), "big") / PARTS
