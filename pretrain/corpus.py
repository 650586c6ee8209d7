"""The text of a stage: an environment's demonstrations, or a JSON-lines file.

A corpus is endless and pure: entry i is always the same. A finite source is reshuffled each epoch.
"""

import random
from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

from rlserve import plugins
from rlserve.config.tables.pretrain import CorpusConfig
from rlserve.errors import ConfigError, InvalidRequest
from rlserve.text_files import json_object, lines_of, read_text

GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Its multiples modulo 1 are spread more evenly than those of any other number (three-distance theorem)."""
TOKENIZER_TEXTS = 10_000
"""Texts of an endless corpus for the tokenizer: enough to contain every character and frequent pair."""


class Corpus(Protocol):
    """Text by index."""

    size: int
    """Entries in one epoch; 0 for an endless corpus."""

    def text(self, index: int) -> str:
        """Return text for pretraining."""
        ...

    def pair(self, index: int) -> tuple[str, str]:
        """Prompt and completion for supervised fine-tuning. Raises InvalidRequest if the corpus has none."""
        ...


class EnvironmentCorpus:
    """An environment's demonstrations on its train split."""

    def __init__(self, environment: Any, *, seed: int) -> None:
        if not hasattr(environment, "demonstration"):
            raise ConfigError(
                f"corpus.environment: {environment.name!r} has no demonstrations; give it a method "
                "demonstration(split, index, seed), or use another corpus"
            )
        self.environment = environment
        # Train alone: demonstrations of held-out tasks would spoil the measurement after training.
        self.size = int(environment.splits["train"])
        self._order = Order(self.size, seed)
        self._seed = seed

    def text(self, index: int) -> str:
        """The environment's own text if it has any, else a demonstration."""
        if hasattr(self.environment, "text"):
            return str(self.environment.text("train", self._order.at(index), self._seed))
        return "".join(self.pair(index))

    def pair(self, index: int) -> tuple[str, str]:
        """Return one demonstration."""
        prompt, completion = self.environment.demonstration("train", self._order.at(index), self._seed)
        return prompt, completion


class FileCorpus:
    """The rows of a JSON-lines file with "text", or with "prompt" and "completion"."""

    def __init__(self, path: str, *, seed: int) -> None:
        self._path = path
        self._rows = _read(path)
        self.size = len(self._rows)
        self._order = Order(self.size, seed)

    def text(self, index: int) -> str:
        """Return the row's text, or its prompt and completion joined."""
        row = self._rows[self._order.at(index)]
        return row["text"] if "text" in row else row["prompt"] + row["completion"]

    def pair(self, index: int) -> tuple[str, str]:
        """Return the row's prompt and completion."""
        row = self._rows[self._order.at(index)]
        if "completion" not in row:
            raise InvalidRequest(
                f'corpus.path: {self._path!r} has rows with only "text"; fine-tuning needs prompt and completion'
            )
        return row["prompt"], row["completion"]


class MixedCorpus:
    """Several corpora in one, without end.

    Example::

        corpus = MixedCorpus([(FileCorpus("books.jsonl", seed=1), 3.0), (FileCorpus("sums.jsonl", seed=1), 1.0)])
        corpus.text(0)   # from books.jsonl, as three of four entries are
    """

    size = 0

    def __init__(self, parts: Sequence[tuple[Corpus, float]]) -> None:
        """``parts``: corpora with their weights, each > 0."""
        self.parts = [corpus for corpus, _ in parts]
        self._bounds = list(accumulate(weight for _, weight in parts))

    def text(self, index: int) -> str:
        """Return entry ``index`` of the part that the weights choose for it."""
        return self._part(index).text(index)

    def pair(self, index: int) -> tuple[str, str]:
        """Return entry ``index`` of the part that the weights choose for it."""
        return self._part(index).pair(index)

    def _part(self, index: int) -> Corpus:
        # Multiples of the golden ratio spread evenly over [0, 1), so any run of entries has each part's share.
        return self.parts[bisect(self._bounds, index * GOLDEN_RATIO % 1 * self._bounds[-1])]


class Order:
    """A new permutation of ``size`` positions each epoch; the identity if endless (size 0)."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        # One epoch at a time: reading moves forward, and a permutation takes as much memory as the index of the corpus.
        self._permutation = lru_cache(maxsize=1)(self._shuffle)

    def at(self, index: int) -> int:
        """Return the position of the entry that is read as number ``index``."""
        if not self._size:
            return index
        epoch, offset = divmod(index, self._size)
        return self._permutation(epoch)[offset]

    def _shuffle(self, epoch: int) -> list[int]:
        positions = list(range(self._size))
        # A seed for each epoch, so that the order of epoch 7 needs none of the six before it.
        random.Random(f"{self._seed}/{epoch}").shuffle(positions)
        return positions


def open_corpus(config: CorpusConfig, *, seed: int) -> Corpus:
    """Return the corpus of a configuration. Raises UnknownName, ConfigError or InvalidRequest."""
    if config.mixture:
        return MixedCorpus([(open_corpus(part, seed=seed), part.weight) for part in config.mixture])
    if config.path:
        return FileCorpus(config.path, seed=seed)
    cls = plugins.load(plugins.ENVIRONMENT_GROUP, config.environment)
    return EnvironmentCorpus(cls(**config.options), seed=seed)


def tokenizer_texts(corpus: Corpus) -> list[str]:
    """Texts for training a tokenizer: all of a finite corpus, the first ones of an endless one."""
    # Each part whole: a rare one would otherwise give the tokenizer few or none of its characters.
    if isinstance(corpus, MixedCorpus):
        return [text for part in corpus.parts for text in tokenizer_texts(part)]
    count = corpus.size or TOKENIZER_TEXTS
    texts = [corpus.text(index) for index in range(count)]
    if isinstance(corpus, EnvironmentCorpus):  # its own text may not contain every character of the answers
        texts += ["".join(corpus.pair(index)) for index in range(count)]
    return texts


def _read(path: str) -> list[Mapping[str, str]]:
    try:
        text = read_text(path)
    except InvalidRequest as error:
        raise ConfigError(f"corpus.path: {error}; give a JSON-lines file") from None
    rows = [_row(path, number, line) for number, line in lines_of(text)]
    if not rows:
        raise ConfigError(f"corpus.path: {path!r} has no rows; give a JSON-lines file")
    return rows


def _row(path: str, number: int, line: str) -> Mapping[str, str]:
    try:
        row = json_object(line)
    except InvalidRequest as error:
        raise ConfigError(f"corpus.path: {path!r}, line {number}: {error}") from None
    # In this order, and only these columns: whatever else the row holds stays out of memory.
    for names in (("text",), ("prompt", "completion")):
        if all(isinstance(row.get(name), str) for name in names):
            return {name: row[name] for name in names}
    raise ConfigError(f'corpus.path: {path!r}, line {number}: has neither "text" nor "prompt" and "completion" as text')
