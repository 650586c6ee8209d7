"""Competition mathematics from JSON-lines files, in the form of MATH (arXiv:2103.03874) and its like."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.environments.rows import (
    answer_field,
    checked_payload,
    optional_text,
    prompt_format_option,
    read_files,
    row_at,
    text_field,
)
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task
from rlserve.verifiers.math.boxes import last_box

INSTRUCTION = "Reason step by step, then write the final answer as \\boxed{answer}."


@dataclass(frozen=True, slots=True, kw_only=True)
class MathProblem:
    """One line of a file."""

    problem: str
    golds: tuple[str, ...]
    """Right answers; any one of them is right."""
    solution: str = ""
    labels: Mapping[str, str]


class MathEnvironment:
    """A problem and its answer in LaTeX; judged by mathematical equality.

    Columns: ``problem`` (or ``question``), and ``answer`` (text, a number, or a list of right ones), or ``solution``
    whose last ``\\boxed{...}`` is the answer, as the verifier reads it.
    ``level`` and ``subject`` (or ``type``) become labels. ``prompt_format`` as for ``gsm8k``.
    """

    name = "math"
    version = "1"
    verifier = "math"

    def __init__(
        self,
        *,
        path: str,
        validation_path: str = "",
        test_path: str = "",
        prompt_format: str = "chat",
        instruction: str = INSTRUCTION,
    ) -> None:
        self._prompt_format = prompt_format_option(self.name, prompt_format)
        self._problems = read_files({"train": path, "validation": validation_path, "test": test_path}, _problem)
        self._instruction = instruction

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows of each file that was given."""
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
            payload=json.dumps({"answer": _one_or_all(problem.golds)}).encode(),
            seed=seed,
            labels=problem.labels,
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Problem and worked solution, as text; without a solution, the answer in a box."""
        problem, _ = row_at(self._problems, self.name, split, index)
        return problem.problem + "\n", problem.solution or f"\\boxed{{{problem.golds[0]}}}"

    def _prompt(self, problem: MathProblem) -> str | tuple[Message, ...]:
        if self._prompt_format == "text":
            return problem.problem + "\n"
        return (Message(role="user", content=f"{problem.problem}\n{self._instruction}"),)


def _problem(row: Mapping[str, Any]) -> MathProblem:
    problem = text_field(row, next((name for name in ("problem", "question") if name in row), "problem"))
    solution = optional_text(row, "solution")
    golds = _golds(row, solution)
    checked_payload(MathEnvironment.verifier, {"answer": list(golds)})
    found = {"level": row.get("level"), "subject": row.get("subject", row.get("type"))}
    return MathProblem(
        problem=problem.strip(),
        golds=golds,
        solution=solution.strip(),
        labels={name: str(value) for name, value in found.items() if value},
    )


def _golds(row: Mapping[str, Any], solution: str) -> tuple[str, ...]:
    """The answer of a row, else what its solution has in the last box."""
    answer = row.get("answer")
    if answer is not None and answer != [] and not (isinstance(answer, str) and not answer.strip()):
        golds = answer_field(row)
        return tuple(text.strip() for text in ([golds] if isinstance(golds, str) else golds))
    boxed = last_box(solution)
    if not boxed:
        raise InvalidRequest(f"solution: ends in {solution[-40:]!a}; it must have a \\boxed answer, or give answer")
    return (boxed,)


def _one_or_all(golds: tuple[str, ...]) -> str | list[str]:
    return golds[0] if len(golds) == 1 else list(golds)
