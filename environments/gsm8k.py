"""Grade-school word problems (GSM8K, arXiv:2110.14168) from files that the user has.

A line is ``{"question": ..., "answer": "... <<48/2=24>>24 ...\\n#### 72"}``; an answer that is the number alone is
taken, too.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.environments.rows import (
    answer_field,
    checked_payload,
    prompt_format_option,
    read_files,
    row_at,
    text_field,
)
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task

INSTRUCTION = "Reason step by step, then write the final answer as \\boxed{number}."
GOLD = re.compile(r"####\s*\$?\s*(-?[\d,]*\.?\d+)\s*\Z")
NUMBER = re.compile(r"\s*\$?\s*(-?[\d,]*\.?\d+)\s*")
CALCULATION = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the file."""

    question: str
    solution: str
    """Worked solution without the calculator marks, its last line ``#### 72``."""
    gold: str
    """The number, without thousands separators."""


class Gsm8kEnvironment:
    """GSM8K: a question, an answer that is a number; judged by mathematical equality.

    ``prompt_format``: ``"chat"`` is one user message, the question and ``instruction``; ``"text"`` is the question
    and a line break, for models that never saw a chat template.
    """

    name = "gsm8k"
    version = "1"
    verifier = "math"

    def __init__(
        self, *, path: str, test_path: str = "", prompt_format: str = "chat", instruction: str = INSTRUCTION
    ) -> None:
        self._prompt_format = prompt_format_option(self.name, prompt_format)
        self._problems = read_files({"train": path, "test": test_path}, _problem)
        self._instruction = instruction

    @property
    def splits(self) -> Mapping[str, int]:
        """Train from ``path``, and test when ``test_path`` is given."""
        return {split: len(problems) for split, problems in self._problems.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Problem ``index`` of the split's file, in the file's order; ``seed`` changes nothing."""
        problem, position = row_at(self._problems, self.name, split, index)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{position}",
            prompt=self._prompt(problem),
            verifier=self.verifier,
            payload=json.dumps({"answer": problem.gold}).encode(),
            seed=seed,
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Question and worked solution, as text."""
        problem, _ = row_at(self._problems, self.name, split, index)
        return _as_text(problem), problem.solution

    def _prompt(self, problem: Problem) -> str | tuple[Message, ...]:
        if self._prompt_format == "text":
            return _as_text(problem)
        return (Message(role="user", content=f"{problem.question}\n{self._instruction}"),)


def _as_text(problem: Problem) -> str:
    return problem.question + "\n"


def _problem(row: Mapping[str, Any]) -> Problem:
    number = row.get("answer")
    solution = str(answer_field(row)) if isinstance(number, int | float) else text_field(row, "answer")
    if (alone := NUMBER.fullmatch(solution)) is not None:
        solution = f"#### {alone[1]}"
    match = GOLD.search(solution)
    if match is None:
        raise InvalidRequest(f"answer: ends in {solution[-40:]!r}; it must end in '#### <number>'")
    gold = match[1].replace(",", "")
    checked_payload(Gsm8kEnvironment.verifier, {"answer": gold})
    return Problem(
        question=text_field(row, "question").strip(),
        solution=CALCULATION.sub("", solution).strip(),
        gold=gold,
    )
