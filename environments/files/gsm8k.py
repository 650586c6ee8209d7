"""GSM8K: grade-school word problems (arXiv:2110.14168) from files that the user provides.

A line is ``{"question": ..., "answer": "... <<48/2=24>>24 ...\\n#### 72"}``; the answer may also be the number alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from rlserve.environments.files.fields import answer_field, text_field
from rlserve.environments.files.math_problems import MathProblem, MathProblemEnvironment
from rlserve.environments.files.rows import checked_payload
from rlserve.errors import InvalidRequest

INSTRUCTION = "Reason step by step, then write the final answer as \\boxed{number}."
# At the very end: a solution may quote "####" before. The data set writes thousands separators and dollar signs.
GOLD = re.compile(r"####\s*\$?\s*(-?[\d,]*\.?\d+)\s*\Z")
NUMBER = re.compile(r"\s*\$?\s*(-?[\d,]*\.?\d+)\s*")
# The calculator annotations of the data set: "<<48/2=24>>" in front of the result. Models write plain text.
CALCULATION = re.compile(r"<<[^<>]*>>")


class Gsm8kEnvironment(MathProblemEnvironment):
    """GSM8K: a question, and an answer that is a number; judged by mathematical equality.

    Splits: ``train`` from ``path``, and ``test`` when ``test_path`` is given. Options ``prompt_format`` and
    ``instruction``: see ``MathProblemEnvironment``.
    """

    name = "gsm8k"

    def __init__(
        self, *, path: str, test_path: str = "", prompt_format: str = "chat", instruction: str = INSTRUCTION
    ) -> None:
        files = {"train": path, "test": test_path}
        super().__init__(files, _problem, prompt_format=prompt_format, instruction=instruction)


def _problem(row: Mapping[str, Any]) -> MathProblem:
    number = row.get("answer")
    # Files converted by a table program have the number as a number.
    solution = str(answer_field(row)) if isinstance(number, int | float) else text_field(row, "answer")
    if (alone := NUMBER.fullmatch(solution)) is not None:
        solution = f"#### {alone[1]}"  # so that a demonstration ends as in the full file
    match = GOLD.search(solution)
    if match is None:
        raise InvalidRequest(f"answer: ends in {solution[-40:]!r}; it must end in '#### <number>'")
    gold = match[1].replace(",", "")
    checked_payload(Gsm8kEnvironment.verifier, {"answer": gold})
    return MathProblem(
        question=text_field(row, "question").strip(),
        golds=(gold,),
        solution=CALCULATION.sub("", solution).strip(),
    )
