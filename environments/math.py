"""Competition mathematics from JSON-lines files, in the form of MATH (arXiv:2103.03874) and its like."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.environments.jsonl import read_rows, row_at, text_field
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task

INSTRUCTION = "Reason step by step, then write the final answer as \\boxed{answer}."


@dataclass(frozen=True, slots=True, kw_only=True)
class MathProblem:
    """One line of a file."""

    problem: str
    gold: str
    solution: str = ""
    labels: Mapping[str, str]


class MathEnvironment:
    """A problem and its answer in LaTeX; judged by mathematical equality.

    Columns: ``problem`` (or ``question``), and ``answer``, or ``solution`` whose last ``\\boxed{...}`` is the answer.
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
        if prompt_format not in ("chat", "text"):
            raise InvalidRequest(f'math.prompt_format: is {prompt_format!r}; give "chat" or "text"')
        files = {"train": path, "validation": validation_path, "test": test_path}
        self._problems = {split: read_rows(file, _problem) for split, file in files.items() if file}
        self._prompt_format = prompt_format
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
            payload=json.dumps({"answer": problem.gold}).encode(),
            seed=seed,
            labels=problem.labels,
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Problem and worked solution, as text; without a solution, the answer in a box."""
        problem, _ = row_at(self._problems, self.name, split, index)
        return problem.problem + "\n", problem.solution or f"\\boxed{{{problem.gold}}}"

    def _prompt(self, problem: MathProblem) -> str | tuple[Message, ...]:
        if self._prompt_format == "text":
            return problem.problem + "\n"
        return (Message(role="user", content=f"{problem.problem}\n{self._instruction}"),)


def last_box(solution: str) -> str | None:
    """What stands in the last ``\\boxed{...}``, whose braces may nest; None without one."""
    start = max(solution.rfind("\\boxed{"), solution.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = solution.index("{", start) + 1
    depth = 1
    for place in range(begin, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if depth == 0:
            return solution[begin:place].strip()
    return None


def _problem(row: Mapping[str, Any]) -> MathProblem:
    solution = str(row.get("solution") or "")
    gold = text_field(row, "answer") if "answer" in row else last_box(solution)
    if not gold:
        raise InvalidRequest(f"solution: ends in {solution[-40:]!a}; it must have a \\boxed answer, or give answer")
    found = {"level": row.get("level"), "subject": row.get("subject", row.get("type"))}
    return MathProblem(
        problem=text_field(row, "problem" if "problem" in row else "question").strip(),
        gold=gold.strip(),
        solution=solution.strip(),
        labels={name: str(value) for name, value in found.items() if value},
    )
