"""Runs the scorers of reasoning-gym safely on answers that a model wrote.

Some scorers evaluate the answer as Python. In the modules that expect lists, ``ast.literal_eval`` replaces ``eval``, so
that they read literals only. Where a formula goes to sympy's parser, which evaluates it, the answer must first look
like a formula: digits, operators, brackets and the names of such formulas. Any other answer scores 0.
"""

import ast
import importlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rlserve.errors import InvalidRequest

# The modules of reasoning-gym 0.1 whose scorers call eval() on the answer. A new release may add others: search it for
# "eval(" before raising the version in pyproject.toml.
LITERAL_MODULES = (
    "algorithmic.string_insertion",
    "algorithmic.spiral_matrix",
    "algorithmic.number_sorting",
    "algorithmic.binary_matrix",
    "games.n_queens",
)
MAX_FORMULA_CHARACTERS = 500
"""Of an answer for sympy's parser, whose time and memory grow with the length. Any value of this size will do."""
ARITHMETIC = re.compile(r"[0-9+\-*/(). ]*")
FORMULA = re.compile(r"(?:[0-9+\-*/^(), .=]|\b(?:[A-Za-z]|exp|log|ln|sin|cos|tan|sec|csc|cot|sqrt|pi|a?sin|a?tan)\b)*")
# Exponents of four digits, numbers of forty, towers of powers: sympy would compute them in full.
POWER = re.compile(r"(?:\*\*|\^)\s*\(?\s*-?\d{4,}|\d{40,}|(?:\*\*|\^)[^+\-*/]*(?:\*\*|\^)")
FORMULA_TASKS: Mapping[str, re.Pattern[str]] = {
    "countdown": ARITHMETIC,
    "puzzle24": ARITHMETIC,
    "simple_integration": FORMULA,
    "intermediate_integration": FORMULA,
    "polynomial_multiplication": FORMULA,
}


def score(task: str, options: Mapping[str, Any], answer: str, entry: Mapping[str, Any]) -> float:
    """Return the data set's own score, in [0, 1]; 0 for an answer that may not be evaluated.

    Raises InvalidRequest for an unknown task.
    """
    # Before the check of the form: an unknown task is the payload's fault, not a wrong answer.
    data_set = _data_set(task, tuple(sorted((key, repr(value)) for key, value in options.items())), _Held(options))
    if task in FORMULA_TASKS and not is_formula(task, answer):
        return 0.0
    try:
        value = float(data_set.score_answer(answer, dict(entry)))
    except (ValueError, TypeError, SyntaxError, ArithmeticError, LookupError, AttributeError, RecursionError):
        return 0.0  # the scorers expect an answer of the right form and raise on any other
    return min(1.0, max(0.0, value))


def is_formula(task: str, answer: str) -> bool:
    """True when an answer may go to a parser that evaluates it."""
    pattern = FORMULA_TASKS[task]
    return (
        len(answer) <= MAX_FORMULA_CHARACTERS and pattern.fullmatch(answer) is not None and POWER.search(answer) is None
    )


class _Held:
    """The options, passed through a cache that is keyed by their text: a dictionary cannot be hashed.

    All instances are equal, so that the text alone decides.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _data_set(task: str, key: tuple[tuple[str, str], ...], held: _Held) -> Any:
    library = _library()
    try:
        # Any seed: a scorer looks at the entry alone.
        return library.create_dataset(task, seed=0, **held.options)
    except (ValueError, TypeError, AssertionError) as error:
        raise InvalidRequest(f"payload.task: {task!r} with {dict(held.options)!r} cannot be made: {error}") from error


@lru_cache(maxsize=1)
def _library() -> Any:
    """Import the library and replace ``eval`` in the modules that evaluate answers."""
    library = importlib.import_module("reasoning_gym")
    # A global of the module hides the builtin; the module's source stays as it is.
    for name in LITERAL_MODULES:
        vars(importlib.import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval
    return library
