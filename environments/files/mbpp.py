"""The environment ``mbpp``: MBPP (arXiv:2108.07732) and files of its form."""

import re
from collections.abc import Mapping
from typing import Any

from rlserve.environments.files.code_jsonl import INSTRUCTION, CodeEnvironment, CodeRow, code_row
from rlserve.environments.files.fields import optional_text, text_field, texts_field
from rlserve.environments.files.rows import read_files
from rlserve.errors import InvalidRequest

# The function that an assert calls, also inside of set(...), math.isclose(...) or brackets.
CALL = re.compile(
    r"assert\s+(?:not\s+)?\(*\s*(?:\w+\.\w+\(|(?:set|sorted|list|tuple|abs|round|len|str|int|float)\()*\s*(\w+)\("
)


class MbppEnvironment(CodeEnvironment):
    """MBPP: a sentence that describes a function, and three asserts that verify it in the sandbox.

    Columns of the full and of the sanitized file: ``task_id``, ``text`` or ``prompt``, ``code``, ``test_list``, and
    optionally ``test_imports`` or ``test_setup_code``, which run before the asserts (``challenge_test_list`` is not
    used). The first ``shown_tests`` asserts are part of the prompt, because they contain the function's name.
    """

    name = "mbpp"

    def __init__(
        self,
        *,
        path: str,
        validation_path: str = "",
        test_path: str = "",
        shown_tests: int = 1,
        prompt_format: str = "chat",
        instruction: str = INSTRUCTION,
        cpu_seconds: float | None = None,
    ) -> None:
        files = {"train": path, "validation": validation_path, "test": test_path}
        rows = read_files(files, lambda row: _row(row, shown_tests))
        super().__init__(rows, prompt_format=prompt_format, instruction=instruction, cpu_seconds=cpu_seconds)


def _row(row: Mapping[str, Any], shown_tests: int) -> CodeRow:
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise InvalidRequest("test_list: is not a list of asserts")
    names = [match[1] for test in tests if (match := CALL.search(test))]
    # The full file has "text", the sanitized one "prompt".
    text = text_field(row, "text" if row.get("text") else "prompt").strip()
    shown = "\n".join(tests[:shown_tests])
    return code_row(
        task_id=str(row.get("task_id", text[:60])),
        prompt=f"{text}\nYour code should pass these tests:\n\n{shown}\n" if shown else f"{text}\n",
        payload={
            "kind": "function",
            # Without a recognised call the tests' own names are wanted (``CodeTask.wanted``).
            "entry_point": names[0] if names else "",
            "tests": [*texts_field(row, "test_imports"), *texts_field(row, "test_setup_code"), *tests],
        },
        solution=optional_text(row, "code"),
        columns={"tests": "test_list"},
    )
