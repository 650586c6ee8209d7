"""Competition mathematics from JSON-lines files, in the form of MATH (arXiv:2103.03874) and similar data sets."""

from collections.abc import Mapping
from typing import Any

from rlserve.environments.files.fields import answer_field, optional_text, text_field
from rlserve.environments.files.math_problems import MathProblem, MathProblemEnvironment
from rlserve.environments.files.rows import checked_payload
from rlserve.errors import InvalidRequest
from rlserve.verifiers.math.extract.boxes import last_box

INSTRUCTION = "Reason step by step, then write the final answer as \\boxed{answer}."


class MathEnvironment(MathProblemEnvironment):
    """A problem and its answer in LaTeX; judged by mathematical equality.

    Columns: ``problem`` (or ``question``), and ``answer`` (text, a number, or a list of right ones), or ``solution``
    whose last ``\\boxed{...}`` is the answer, found as the verifier finds it. ``level`` and ``subject`` (or ``type``)
    become labels. Options ``prompt_format`` and ``instruction``: see ``MathProblemEnvironment``.
    """

    name = "math"

    def __init__(
        self,
        *,
        path: str,
        validation_path: str = "",
        test_path: str = "",
        prompt_format: str = "chat",
        instruction: str = INSTRUCTION,
    ) -> None:
        files = {"train": path, "validation": validation_path, "test": test_path}
        super().__init__(files, _problem, prompt_format=prompt_format, instruction=instruction)


def _problem(row: Mapping[str, Any]) -> MathProblem:
    question = text_field(row, next((name for name in ("problem", "question") if name in row), "problem"))
    solution = optional_text(row, "solution")
    golds = _golds(row, solution)
    # Now, when the file is read: a gold answer that the verifier cannot read would waste every rollout on it.
    checked_payload(MathEnvironment.verifier, {"answer": list(golds)})
    # MATH's own files call the subject "type".
    labels = {"level": row.get("level"), "subject": row.get("subject", row.get("type"))}
    return MathProblem(
        question=question.strip(),
        golds=golds,
        solution=solution.strip(),
        labels={name: str(value) for name, value in labels.items() if value},
    )


def _golds(row: Mapping[str, Any], solution: str) -> tuple[str, ...]:
    """Return the answers of a row, or the content of the last box of its solution."""
    answer = row.get("answer")
    # Files often have an empty answer column beside a solution: it counts as left out.
    if answer is not None and answer != [] and not (isinstance(answer, str) and not answer.strip()):
        golds = answer_field(row)
        return tuple(text.strip() for text in ([golds] if isinstance(golds, str) else golds))
    boxed = last_box(solution)
    if not boxed:
        raise InvalidRequest(f"solution: ends in {solution[-40:]!a}; it must have a \\boxed answer, or give answer")
    return (boxed,)
