"""Reward functions in a module that can be imported."""

from typing import Any


def short(completions: list[str], **columns: Any) -> list[float]:
    """1 for at most three characters."""
    return [float(len(text) <= 3) for text in completions]


def long(completions: list[str], **columns: Any) -> list[float]:
    """1 for more than three characters."""
    return [float(len(text) > 3) for text in completions]
