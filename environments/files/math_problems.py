"""The base of the environments whose tasks are mathematical problems with gold answers, from JSON-lines files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlserve.environments.files.rows import prompt_format_option, read_files, row_at
from rlserve.records import Message, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class MathProblem:
    """One line of a file."""

    question: str
    golds: tuple[str, ...]
    """Gold answers; a completion must equal one of them."""
    solution: str = ""
    """Worked solution, for demonstrations; empty when the file has none."""
    labels: Mapping[str, str] = field(default_factory=dict)


class MathProblemEnvironment:
    """Problems from files, judged by mathematical equality with their gold answers.

    ``prompt_format``: ``"chat"`` is one user message, the question and ``instruction``; ``"text"`` is the question
    and a line break, for models that never saw a chat template.

    A subclass gives its ``name`` and a function that parses one row::

        class RiddleEnvironment(MathProblemEnvironment):
            name = "riddles"

            def __init__(self, *, path: str) -> None:
                super().__init__({"train": path}, _problem, prompt_format="chat", instruction="Answer in a box.")
    """

    name = ""
    version = "1"
    verifier = "math"

    def __init__(
        self,
        files: Mapping[str, str],
        parse: Callable[[Mapping[str, Any]], MathProblem],
        *,
        prompt_format: str,
        instruction: str,
    ) -> None:
        """``files`` maps splits to paths; a split with an empty path is left out."""
        self._prompt_format = prompt_format_option(self.name, prompt_format)
        self._problems = read_files(files, parse)
        self._instruction = instruction

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows of each file that was given."""
        return {split: len(problems) for split, problems in self._problems.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Return problem ``index`` of the split's file, in the file's order; ``seed`` changes nothing."""
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
        """Return the question and its worked solution, as text; without a solution, the gold answer in a box."""
        problem, _ = row_at(self._problems, self.name, split, index)
        # A box is the form in which the built-in instructions ask for the answer.
        return _as_text(problem), problem.solution or f"\\boxed{{{problem.golds[0]}}}"

    def _prompt(self, problem: MathProblem) -> str | tuple[Message, ...]:
        if self._prompt_format == "text":
            return _as_text(problem)
        return (Message(role="user", content=f"{problem.question}\n{self._instruction}"),)


def _as_text(problem: MathProblem) -> str:
    # The line break ends the question: without it a base model would go on with the question itself.
    return problem.question + "\n"


def _one_or_all(golds: tuple[str, ...]) -> str | list[str]:
    return golds[0] if len(golds) == 1 else list(golds)
