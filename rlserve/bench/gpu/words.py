"""An environment for a model of random weights: prompts of numbered words, a reward that half of all texts get."""

import json
from collections.abc import Mapping

from rlserve.records import Task

PROMPT_WORDS = 60
"""About the tokens of a question of GSM8K."""
EVEN_END = r"[02468]$"
"""The last word's number is even."""


class WordsEnvironment:
    """Endless prompts of words ``w2`` to ``w<vocabulary - 1>``, of which a tokenizer makes one token each."""

    name = "words"
    version = "1"
    verifier = "regex"

    def __init__(self, *, vocabulary: int) -> None:
        self._words = vocabulary - 2  # 0 and 1 are special tokens

    @property
    def splits(self) -> Mapping[str, int]:
        """Both endless."""
        return {"train": 0, "test": 0}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Another prompt for each index."""
        first = (7 * index + seed) % self._words
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=" ".join(f"w{2 + (first + 31 * i) % self._words}" for i in range(PROMPT_WORDS)),
            verifier=self.verifier,
            payload=json.dumps({"pattern": EVEN_END}).encode(),
            seed=seed,
        )
