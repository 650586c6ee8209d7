"""The procedural tasks of the ``reasoning-gym`` library, about a hundred data sets, through one adapter.

The verifier ``reasoning_gym`` runs each data set's own scorer.
"""

import json
import random
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from rlserve.errors import InvalidRequest, PluginFailed, UnknownName
from rlserve.records import Message, Task
from rlserve.sandbox.walls.plain import encode_plain

SPLITS = ("train", "validation", "test")
CHUNK = 500
"""Tasks per library seed: some data sets have no more than this."""
TAGGED = "\n\nThink first; then write the answer between <answer> and </answer>."
# Data sets made of others, which their configuration must list.
NEEDS_PARTS = frozenset({"composite"})


class ReasoningGymEnvironment:
    """One data set of reasoning-gym, endless, with any of its own options.

    ``task`` is its name in the library, ``options`` its configuration, e.g. ``task="chain_sum", options={"max_terms":
    3}``. ``prompt_format``: ``"chat"`` requests the answer in tags, ``"text"`` is only the question and ``suffix``. For
    several in one mixture, give each a name of its own and ``plugin = "reasoning_gym"``.
    """

    name = "reasoning_gym"
    verifier = "reasoning_gym"

    def __init__(
        self, *, task: str, options: Mapping[str, Any] | None = None, prompt_format: str = "chat", suffix: str = "\n"
    ) -> None:
        if prompt_format not in ("chat", "text"):
            raise InvalidRequest(f'reasoning_gym.prompt_format: is {prompt_format!r}; give "chat" or "text"')
        self._task = task
        self._options = dict(options or {})
        self._prompt_format = prompt_format
        self._suffix = suffix
        # Per instance, not on the method: a cache on the class would keep every instance alive.
        self._data_set = lru_cache(maxsize=8)(self._make)
        self._data_set(0)  # raises for faulty options now and not at the first task
        self.version = _library_version()

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation and test, each endless, with disjoint seeds."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The task at ``index``. Raises UnknownName for an unknown split."""
        entry = self._entry(split, index, seed)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{self._task}/{split}/{seed}/{index}",
            prompt=self._prompt(str(entry["question"])),
            verifier=self.verifier,
            payload=json.dumps(
                {
                    "task": self._task,
                    "options": self._options,
                    # Entries hold tuples, sets and integer keys, which plain JSON would change before the scorer sees
                    # them.
                    "entry": encode_plain(dict(entry)),
                    "tags": self._prompt_format == "chat",
                }
            ).encode(),
            seed=seed,
            labels={"task": self._task},
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Question and answer, in tags if the prompt requests them.

        Raises InvalidRequest if the data set has no answer.
        """
        entry = self._entry(split, index, seed)
        # Some data sets accept any answer with a property, and give None.
        if not isinstance(entry["answer"], str):
            raise InvalidRequest(f"reasoning_gym: {self._task!r} has no answer to imitate")
        tagged = f"<answer>{entry['answer']}</answer>" if self._prompt_format == "chat" else entry["answer"]
        return str(entry["question"]) + self._suffix, tagged

    def _entry(self, split: str, index: int, seed: int) -> Mapping[str, Any]:
        if split not in SPLITS:
            raise UnknownName(f"split: {split!r} is not one of reasoning_gym ({', '.join(SPLITS)})")
        chunk, place = divmod(index, CHUNK)
        digest = blake2b(f"{seed}/{split}/{chunk}".encode(), digest_size=4).digest()
        # >> 1: a seed of 31 bits, which every generator accepts.
        data_set = self._data_set(int.from_bytes(digest, "big") >> 1)
        state = random.getstate()  # a few data sets draw from Python's global generator
        try:
            random.seed(f"{seed}/{split}/{index}")
            entry: Mapping[str, Any] = data_set[place]
        finally:
            random.setstate(state)
        return entry

    def _make(self, seed: int) -> Any:
        import reasoning_gym

        if self._task in NEEDS_PARTS:
            raise InvalidRequest(f"reasoning_gym.task: {self._task!r} is a mixture; name its tasks one by one instead")
        try:
            return reasoning_gym.create_dataset(self._task, seed=seed, **self._options)
        except ValueError as error:
            raise InvalidRequest(f"reasoning_gym.task: {self._task!r} cannot be made: {error}") from error
        # The library checks its configurations by assert statements.
        except (TypeError, AssertionError) as error:
            raise InvalidRequest(f"reasoning_gym.options: {self._task!r} does not take them: {error}") from error

    def _prompt(self, question: str) -> str | tuple[Message, ...]:
        if self._prompt_format == "text":
            return question + self._suffix
        return (Message(role="user", content=question + TAGGED),)


def _library_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("reasoning-gym")
    except PackageNotFoundError as error:
        raise PluginFailed("reasoning_gym: is not installed; pip install 'rlserve[environments]'") from error
