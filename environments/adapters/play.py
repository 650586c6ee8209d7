"""What the adapters of libraries have in common: imports, seeds, prompts, verdicts."""

import importlib
import math
from types import ModuleType

from rlserve.environments.draws import draw
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.plugins import Environment
from rlserve.records import Message, Outcome, Task, Verdict
from rlserve.records.verdict import outcome_of

SPLITS = ("train", "validation", "test")
PROMPT_FORMATS = ("chat", "text")
MAX_OBSERVATION = 2**16
"""Characters of one observation; the rest is cut. Any value of this size will do: some 16,000 tokens."""


def library(module: str, extra: str) -> ModuleType:
    """The library behind an adapter. Raises InvalidRequest, which says how it is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidRequest(f"{extra}: cannot import {module} ({error}); pip install 'rlserve[{extra}]'") from error


def check_format(name: str, prompt_format: str) -> None:
    """Raise InvalidRequest unless the format of prompts is known."""
    if prompt_format not in PROMPT_FORMATS:
        raise InvalidRequest(f'{name}.prompt_format: is {prompt_format!r}; give "chat" or "text"')


def check_split(name: str, split: str) -> None:
    """Raise UnknownName unless the split is one of the three."""
    if split not in SPLITS:
        raise UnknownName(f"split: {split!r} is not one of {name} ({', '.join(SPLITS)})")


def seed_of(split: str, index: int, seed: int) -> int:
    """The library's own seed of a task; no two splits have the same ones, but for chance."""
    return draw(f"{split}/{seed}/{index}", 2**31)  # what numpy's and Python's generators both take


def prompt_of(text: str, prompt_format: str) -> str | tuple[Message, ...]:
    """The first message of an episode."""
    return (Message(role="user", content=text),) if prompt_format == "chat" else f"{text}\n"


def task_of(
    environment: Environment, split: str, index: int, seed: int, *, task_id: str, text: str, prompt_format: str
) -> Task:
    """The task of an episode that begins with ``text`` and that the library itself rewards."""
    return Task(
        environment=environment.name,
        environment_version=environment.version,
        split=split,
        index=index,
        task_id=task_id,
        prompt=prompt_of(text, prompt_format),
        verifier=environment.verifier,
        payload=b"",
        seed=seed,
        multi_turn=True,
    )


def answer_of(text: str, prompt_format: str) -> tuple[Message, ...]:
    """A later message of the environment."""
    text = text[:MAX_OBSERVATION]
    return (Message(role="user", content=text if prompt_format == "chat" else f"\n{text}\n"),)


def verdict_of(name: str, reward: float, *, pass_at: float | None, turns: int, reason: str) -> Verdict:
    """The environment's own reward as a verdict. Raises ValueError for one that is not finite."""
    if not math.isfinite(reward):
        raise ValueError(f"the reward is {reward}")
    outcome = outcome_of(reward, pass_at)
    return Verdict(
        outcome=outcome,
        reward=reward,
        parts={"turns": float(turns)},
        reason=reason,
        verifier=name,
        passed=int(outcome is Outcome.PASS),
        total=1,
    )
