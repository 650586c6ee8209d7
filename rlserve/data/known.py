"""The well-known data sets that ``rlserve data fetch`` writes, each for the environment of its name."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSet:
    """A data set on the Hub, and the files that an environment reads it from."""

    repository: str
    files: Mapping[str, tuple[str, str]]
    """By split: the file's name, and the option of the environment that takes its path."""
    names: tuple[str, ...] = ("",)
    """Configurations of the repository, of which each has a part of every split."""


KNOWN: Mapping[str, KnownSet] = {
    "gsm8k": KnownSet(
        repository="openai/gsm8k",
        names=("main",),
        files={"train": ("gsm8k_train.jsonl", "path"), "test": ("gsm8k_test.jsonl", "test_path")},
    ),
    "math": KnownSet(
        repository="EleutherAI/hendrycks_math",
        names=(
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
        files={"train": ("math_train.jsonl", "path"), "test": ("math_test.jsonl", "test_path")},
    ),
    "mbpp": KnownSet(
        repository="google-research-datasets/mbpp",
        names=("full",),
        files={
            "train": ("mbpp_train.jsonl", "path"),
            "validation": ("mbpp_validation.jsonl", "validation_path"),
            "test": ("mbpp_test.jsonl", "test_path"),
        },
    ),
    "humaneval": KnownSet(
        repository="openai/openai_humaneval",
        names=("openai_humaneval",),
        files={"test": ("humaneval.jsonl", "path")},
    ),
}
"""By the name of the environment."""
