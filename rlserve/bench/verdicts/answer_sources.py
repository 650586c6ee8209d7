"""Pairs of a gold answer and another answer, with the right verdict: from files, reasoning-gym and their variants."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.bench.verdicts.notations import variants
from rlserve.errors import InvalidRequest

REASONING_GYM = (
    "advanced_geometry", "basic_arithmetic", "bitwise_arithmetic", "chain_sum", "complex_arithmetic", "count_bits",
    "decimal_arithmetic", "decimal_chain_sum", "fraction_simplification", "gcd", "gsm_symbolic", "lcm", "leg_counting",
    "number_sequence", "polynomial_multiplication", "prime_factorization", "products", "simple_equations",
    "simple_geometry", "time_intervals",
)  # fmt: skip
"""Data sets whose answers are mathematics; they are skipped where the extra is not installed."""
ANSWERS_EACH = 40  # of each data set; any value of this size will do, since an answer has dozens of variants
MAX_CHARACTERS = 300  # longer ones in the files are solutions and not answers


@dataclass(frozen=True, slots=True)
class Pair:
    """One gold answer, one answer to judge, and whether they are the same."""

    source: str
    kind: str
    gold: str
    answer: str
    same: bool


def make_pairs(files: Sequence[Path], count: int, *, seed: int = 0) -> list[Pair]:
    """``count`` pairs, evenly from all sources. Raises InvalidRequest when the sources have fewer."""
    draw = random.Random(seed)
    sources = [_shuffled(list(_of_file(path, draw)), draw) for path in files]
    sources.append(_shuffled(list(_of_reasoning_gym(draw)), draw))
    pairs: list[Pair] = []
    while len(pairs) < count and any(sources):
        # One of each source in turn, so that a large file does not decide the shares.
        pairs.extend(source.pop() for source in sources if source)
    if len(pairs) < count:
        raise InvalidRequest(f"--pairs: is {count}, but the answers make {len(pairs)}; name more files with --answers")
    return pairs[:count]


def _shuffled(pairs: list[Pair], draw: random.Random) -> list[Pair]:
    unique = list(dict.fromkeys(pairs))
    draw.shuffle(unique)
    return unique


def _of_file(path: Path, draw: random.Random) -> Iterator[Pair]:
    """Pairs from rows of GSM8K (``#### 18``), or from cases with a gold answer, an answer and the expected verdict."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"--answers {path}: {error}") from error
    for row in rows:
        if isinstance(row, dict):
            yield from _of_row(path.stem, row, draw)


def _of_row(source: str, row: Mapping[str, Any], draw: random.Random) -> Iterator[Pair]:
    given = row["input"] if isinstance(row.get("input"), dict) else row
    if "question" in row and "####" in str(row.get("answer")):
        yield from _varied(source, str(row["answer"]).rpartition("####")[2].strip(), draw)
    elif isinstance(given.get("gold"), str) and isinstance(given.get("answer"), str):
        expected = {"pass": True, "fail": False, True: True, False: False}.get(row.get("expected"))
        if expected is not None and len(given["answer"]) <= MAX_CHARACTERS:
            yield Pair(source, "of the file", given["gold"], given["answer"], expected)
        yield from _varied(source, given["gold"], draw)


def _varied(source: str, gold: str, draw: random.Random) -> Iterator[Pair]:
    if gold and len(gold) <= MAX_CHARACTERS:
        for variant in variants(gold, draw):
            yield Pair(source, variant.kind, gold, variant.text, variant.same)


def _of_reasoning_gym(draw: random.Random) -> Iterator[Pair]:
    try:
        from reasoning_gym import create_dataset
    except ImportError:
        return
    for name in REASONING_GYM:
        for entry in create_dataset(name, seed=draw.randrange(2**31), size=ANSWERS_EACH):
            yield from _varied(f"reasoning-gym {name}", str(entry["answer"]).strip(), draw)
