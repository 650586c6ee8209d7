"""The next task as a pure function of a counter: the same after any restart.

Environments are interleaved by weight. Within a segment of constant weights the order of environments repeats
a short pattern, in which each environment's share is spread evenly (smooth weighted round robin), so the task
at a counter is found without replaying those before it. Every environment counts its own index up from 0,
also across a change of the weights.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.records import Sampling

SHARE_STEPS = 1000
"""Shares are rounded to 1 / SHARE_STEPS, at least that for a positive weight: the pattern stays short, and no user sets
weights more finely."""


@dataclass(frozen=True, slots=True)
class MixtureEntry:
    """One environment of the mixture."""

    environment: str
    split: str
    weight: float
    """Share relative to the others, >= 0."""
    sampling: Sampling = field(default_factory=Sampling)
    """For its tasks that set none, and whose server sets none."""

    @classmethod
    def of(cls, environments: Iterable[EnvironmentConfig]) -> "tuple[MixtureEntry, ...]":
        """The mixture that a run's configuration asks for."""
        return tuple(cls(e.name, e.split, e.weight) for e in environments)


@dataclass(frozen=True, slots=True)
class TaskReference:
    """Names one task and the seed of its sampling."""

    environment: str
    split: str
    index: int
    """Position in the environment's split; endless, a finite split wraps around."""
    seed: int
    """In [0, 2**52): exact as a double also with a sample's number added."""
    sampling: Sampling = field(default_factory=Sampling)


class _Segment:
    """A run of counters, from ``start`` on, under one mixture."""

    def __init__(self, start: int, mixture: tuple[MixtureEntry, ...], taken: Counter[tuple[str, str]]) -> None:
        self.start = start
        self.mixture = mixture
        self._taken = taken  # tasks of each environment before the segment
        turns = _pattern(_parts([i.weight for i in mixture]))
        self._pattern = [mixture[turn] for turn in turns]
        # How often the environment of each place has occurred earlier in the pattern, and in all of it.
        self._earlier = [turns[:place].count(turn) for place, turn in enumerate(turns)]
        self._each = Counter(self._pattern)

    def at(self, counter: int) -> tuple[MixtureEntry, int]:
        """The entry of ``counter``, and its index in that entry's split."""
        rounds, place = divmod(counter - self.start, len(self._pattern))
        found = self._pattern[place]
        return found, self._taken[_key(found)] + rounds * self._each[found] + self._earlier[place]

    def taken_before(self, counter: int) -> Counter[tuple[str, str]]:
        """Tasks of each environment and split below ``counter``."""
        rounds, rest = divmod(counter - self.start, len(self._pattern))
        taken = self._taken.copy()
        for entry, number in self._each.items():
            taken[_key(entry)] += rounds * number
        taken.update(map(_key, self._pattern[:rest]))
        return taken


class TaskSource:
    """The task at every counter. Immutable: :meth:`changed` returns another source.

    Example, weights 2 to 1: counters 0..5 are ``a0 b0 a1 a2 b1 a3``.
    """

    def __init__(self, seed: int, mixture: Sequence[MixtureEntry]) -> None:
        self._seed = seed
        self._segments = [_Segment(0, _checked(mixture), Counter())]

    @property
    def mixture(self) -> tuple[MixtureEntry, ...]:
        """The mixture of the newest counters."""
        return self._segments[-1].mixture

    def at(self, counter: int) -> TaskReference:
        """The task at ``counter``, >= 0."""
        segment = next(s for s in reversed(self._segments) if s.start <= counter)
        entry, index = segment.at(counter)
        seed = derived_seed(self._seed, counter)
        return TaskReference(entry.environment, entry.split, index, seed, entry.sampling)

    def changed(self, counter: int, mixture: Sequence[MixtureEntry]) -> "TaskSource":
        """The same source up to ``counter``, another mixture from there on.

        Raises InvalidRequest for an impossible mixture, or one that would change the past.
        """
        last = self._segments[-1]
        if counter < last.start:
            raise InvalidRequest(
                f"counter: is {counter}, but the mixture last changed at {last.start}; give a later one"
            )
        # Not by __init__, which would begin a segment at 0.
        changed = TaskSource.__new__(TaskSource)
        changed._seed = self._seed
        segment = _Segment(counter, _checked(mixture), last.taken_before(counter))
        # A segment that begins at ``counter`` gave no task yet, so the new one replaces it.
        changed._segments = [s for s in self._segments if s.start < counter] + [segment]
        return changed

    def encode(self) -> str:
        """As JSON, for :meth:`decode`."""
        segments = [{"start": s.start, "mixture": [asdict(i) for i in s.mixture]} for s in self._segments]
        return json.dumps({"seed": self._seed, "segments": segments})

    @classmethod
    def decode(cls, text: str) -> "TaskSource":
        """The source that was encoded. Raises StateCorrupt for any other text."""
        try:
            saved = json.loads(text)
            first, *later = [(s["start"], [_decoded(i) for i in s["mixture"]]) for s in saved["segments"]]
            source = cls(saved["seed"], first[1])
            for start, mixture in later:
                source = source.changed(start, mixture)
            return source
        except (ValueError, KeyError, TypeError) as error:
            raise StateCorrupt(f"task source: {text[:80]!r} is not a saved mixture ({error})") from error


def derived_seed(*parts: int | str) -> int:
    """A seed for each combination of ``parts``, in [0, 2**52)."""
    # Not hash(): Python salts that of a string differently in each process.
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 12


def _decoded(saved: dict[str, Any]) -> MixtureEntry:
    sampling: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in saved.get("sampling", {}).items()
    }
    return MixtureEntry(**{**saved, "sampling": Sampling(**sampling)})


def _key(entry: MixtureEntry) -> tuple[str, str]:
    return entry.environment, entry.split


def _checked(mixture: Sequence[MixtureEntry]) -> tuple[MixtureEntry, ...]:
    positive = tuple(i for i in mixture if i.weight > 0)
    names = [_key(i) for i in mixture]
    if not positive or not all(math.isfinite(i.weight) and i.weight >= 0 for i in mixture):
        weights = {i.environment: i.weight for i in mixture}
        raise InvalidRequest(f"environments: weights are {weights}; give finite ones >= 0, at least one above 0")
    if len(set(names)) < len(names):
        raise InvalidRequest(f"environments: {names} names one twice; give each environment and split once")
    if len(positive) > SHARE_STEPS:
        raise InvalidRequest(f"environments: are {len(positive)}; at most {SHARE_STEPS} fit one mixture")
    return positive


def _parts(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of the weights, each at least 1, as small as they go."""
    # Small whole weights are kept exact; others are rounded to SHARE_STEPS in all.
    if all(float(w).is_integer() for w in weights) and sum(weights) <= SHARE_STEPS:
        parts = [int(w) for w in weights]
    else:
        total = math.fsum(weights)
        parts = [max(1, round(w / total * SHARE_STEPS)) for w in weights]
    divisor = math.gcd(*parts)
    return [part // divisor for part in parts]


def _pattern(parts: Sequence[int]) -> list[int]:
    """Positions into ``parts``, each as often as its part says, spread evenly."""
    total = sum(parts)
    due = [0] * len(parts)
    order = []
    for _ in range(total):
        due = [d + p for d, p in zip(due, parts, strict=True)]
        # max takes the first of equals, so the pattern is the same in every process.
        turn = max(range(len(parts)), key=lambda i: due[i])
        due[turn] -= total
        order.append(turn)
    return order
