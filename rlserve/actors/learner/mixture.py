"""Which task comes next: a pure function of a counter, the same after any restart.

Environments are interleaved by weight. Within a stretch of constant weights the order of environments repeats
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
"""Shares are rounded to 1 / SHARE_STEPS; a positive weight gets at least that."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One environment of the mixture."""

    environment: str
    split: str
    weight: float
    """Share relative to the others, >= 0."""
    sampling: Sampling = field(default_factory=Sampling)
    """Of its tasks, where they say nothing themselves and their server does not either."""

    @classmethod
    def of(cls, environments: Iterable[EnvironmentConfig]) -> "tuple[Ingredient, ...]":
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
    """In [0, 2**52): exact as a double, with room for the numbers of the samples."""
    sampling: Sampling = field(default_factory=Sampling)


class _Stretch:
    """A run of counters, from ``start`` on, under one mixture."""

    def __init__(self, start: int, ingredients: tuple[Ingredient, ...], taken: Counter[tuple[str, str]]) -> None:
        self.start = start
        self.ingredients = ingredients
        self._taken = taken  # tasks of each environment before the stretch
        turns = _pattern(_parts([i.weight for i in ingredients]))
        self._pattern = [ingredients[turn] for turn in turns]
        # How often the environment of each place has occurred earlier in the pattern, and in all of it.
        self._earlier = [turns[:place].count(turn) for place, turn in enumerate(turns)]
        self._each = Counter(self._pattern)

    def at(self, counter: int) -> tuple[Ingredient, int]:
        rounds, place = divmod(counter - self.start, len(self._pattern))
        found = self._pattern[place]
        return found, self._taken[_key(found)] + rounds * self._each[found] + self._earlier[place]

    def taken_before(self, counter: int) -> Counter[tuple[str, str]]:
        rounds, rest = divmod(counter - self.start, len(self._pattern))
        taken = self._taken.copy()
        for ingredient, number in self._each.items():
            taken[_key(ingredient)] += rounds * number
        taken.update(map(_key, self._pattern[:rest]))
        return taken


class TaskSource:
    """The task at every counter. Immutable: :meth:`changed` gives another source.

    Example, weights 2 to 1: counters 0..5 are ``a0 b0 a1 a2 b1 a3``.
    """

    def __init__(self, seed: int, ingredients: Sequence[Ingredient]) -> None:
        self._seed = seed
        self._stretches = [_Stretch(0, _checked(ingredients), Counter())]

    @property
    def ingredients(self) -> tuple[Ingredient, ...]:
        """The mixture of the newest counters."""
        return self._stretches[-1].ingredients

    def at(self, counter: int) -> TaskReference:
        """The task at ``counter``, >= 0."""
        stretch = next(s for s in reversed(self._stretches) if s.start <= counter)
        ingredient, index = stretch.at(counter)
        seed = derived_seed(self._seed, counter)
        return TaskReference(ingredient.environment, ingredient.split, index, seed, ingredient.sampling)

    def changed(self, counter: int, ingredients: Sequence[Ingredient]) -> "TaskSource":
        """The same source up to ``counter``, another mixture from there on.

        Raises InvalidRequest for an impossible mixture, or one that would change the past.
        """
        last = self._stretches[-1]
        if counter < last.start:
            raise InvalidRequest(
                f"counter: is {counter}, but the mixture last changed at {last.start}; give a later one"
            )
        changed = TaskSource.__new__(TaskSource)
        changed._seed = self._seed
        stretch = _Stretch(counter, _checked(ingredients), last.taken_before(counter))
        changed._stretches = [s for s in self._stretches if s.start < counter] + [stretch]
        return changed

    def encode(self) -> str:
        """As JSON, for :meth:`decode`."""
        stretches = [{"start": s.start, "ingredients": [asdict(i) for i in s.ingredients]} for s in self._stretches]
        return json.dumps({"seed": self._seed, "stretches": stretches})

    @classmethod
    def decode(cls, text: str) -> "TaskSource":
        """The source that was encoded. Raises StateCorrupt when it is none."""
        try:
            saved = json.loads(text)
            first, *later = [(s["start"], [_decoded(i) for i in s["ingredients"]]) for s in saved["stretches"]]
            source = cls(saved["seed"], first[1])
            for start, ingredients in later:
                source = source.changed(start, ingredients)
            return source
        except (ValueError, KeyError, TypeError) as error:
            raise StateCorrupt(f"task source: {text[:80]!r} is not a saved mixture ({error})") from error


def derived_seed(*parts: int | str) -> int:
    """A seed for each combination of ``parts``, in [0, 2**52)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 12


def _decoded(saved: dict[str, Any]) -> Ingredient:
    sampling: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in saved.get("sampling", {}).items()
    }
    return Ingredient(**{**saved, "sampling": Sampling(**sampling)})


def _key(ingredient: Ingredient) -> tuple[str, str]:
    return ingredient.environment, ingredient.split


def _checked(ingredients: Sequence[Ingredient]) -> tuple[Ingredient, ...]:
    positive = tuple(i for i in ingredients if i.weight > 0)
    names = [_key(i) for i in ingredients]
    if not positive or not all(math.isfinite(i.weight) and i.weight >= 0 for i in ingredients):
        weights = {i.environment: i.weight for i in ingredients}
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
    credit = [0] * len(parts)
    order = []
    for _ in range(total):
        credit = [c + p for c, p in zip(credit, parts, strict=True)]
        turn = max(range(len(parts)), key=lambda i: credit[i])
        credit[turn] -= total
        order.append(turn)
    return order
