"""Word n-grams that a text shares with others: pure functions.

A text is normalised (lower case, no punctuation, single blanks). Its n-grams are runs of ``n`` words; a text of fewer
words has one n-gram, the whole text, so that short texts match only if they are equal. The overlap of a text with a set
of n-grams is the share of its own n-grams in the set. The default of 13 words is that of GPT-3 (arXiv:2005.14165,
appendix C).
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Normalised words."""
    return WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[int]:
    """Hashes of the text's n-grams, in order; empty for a text without words."""
    words = words_of(text)
    if not words:
        return []
    if len(words) < n:
        return [hash(tuple(words))]
    # Hashes, not tuples: a data set has millions of n-grams. They are compared within this process only, as hash() of a
    # string is salted per process.
    return [hash(tuple(words[start : start + n])) for start in range(len(words) - n + 1)]


def all_ngrams(texts: Iterable[str], n: int) -> frozenset[int]:
    """Hashes of the n-grams of all texts."""
    return frozenset(gram for text in texts for gram in ngrams(text, n))


def overlap(text: str, known: Collection[int], n: int) -> float:
    """Share of the text's n-grams that are known; 0 for a text without words."""
    own = ngrams(text, n)
    return sum(gram in known for gram in own) / len(own) if own else 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """A task that shares n-grams with the evaluation."""

    line: int
    """Line in the task file, from 1."""
    share: float
    text: str


def contaminated(texts: Iterable[tuple[int, str]], known: Collection[int], *, n: int, threshold: float) -> list[Found]:
    """The texts, with their line numbers, whose overlap reaches ``threshold``; the worst first."""
    # threshold > 0 keeps texts without words, whose overlap is 0, from matching everything.
    found = [Found(line, share, text) for line, text in texts if (share := overlap(text, known, n)) >= threshold > 0]
    return sorted(found, key=lambda item: (-item.share, item.line))
