"""HumanEval (arXiv:2107.03374) from the user's file."""

from collections.abc import Mapping
from typing import Any

from rlserve.environments.files.code_jsonl import INSTRUCTION, CodeEnvironment, CodeRow, code_row
from rlserve.environments.files.fields import optional_text, text_field
from rlserve.environments.files.rows import read_files
from rlserve.errors import InvalidRequest


class HumanEvalEnvironment(CodeEnvironment):
    """HumanEval: complete a function from its signature and docstring; verified by its asserts in the sandbox.

    Columns: ``task_id``, ``prompt``, ``entry_point``, ``canonical_solution``, ``test``. It is an evaluation set: the
    rows of ``path`` are the split ``test``; training needs a ``train_path`` with other rows.
    """

    name = "humaneval"

    def __init__(
        self,
        *,
        path: str = "",
        train_path: str = "",
        prompt_format: str = "chat",
        instruction: str = INSTRUCTION,
        cpu_seconds: float | None = None,
    ) -> None:
        rows = read_files({"train": train_path, "test": path}, _row)
        if not rows:
            raise InvalidRequest("humaneval.path: is empty; give a JSON-lines file")
        super().__init__(rows, prompt_format=prompt_format, instruction=instruction, cpu_seconds=cpu_seconds)


def _row(row: Mapping[str, Any]) -> CodeRow:
    prompt, entry_point = text_field(row, "prompt"), text_field(row, "entry_point")
    # The name becomes part of the tests' source, "check(name)".
    if not entry_point.isidentifier():
        raise InvalidRequest(f"entry_point: is {entry_point[:40]!a}; give the name of the function")
    return code_row(
        task_id=text_field(row, "task_id"),
        prompt=prompt,
        payload={
            "kind": "function",
            "entry_point": entry_point,
            "tests": f"{text_field(row, 'test')}\ncheck({entry_point})\n",
            "prefix": prompt,  # a completion may be the body alone
        },
        solution=optional_text(row, "canonical_solution"),
        columns={"tests": "test", "prefix": "prompt"},
    )
