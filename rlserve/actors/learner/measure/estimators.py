"""Estimators of an evaluation: pass@k, maj@k, and intervals. Pure functions.

A problem has n judged samples, c of them right. ``pass@k`` and ``maj@k`` are the means over all sets of k of its n
samples, computed exactly: an estimate from the first k samples alone has the same mean and a larger spread.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # the normal distribution's quantile at 0.975
RESAMPLES = 1000
"""Of a bootstrap: the ends of a 95% interval then move by a few percent of its width between two seeds."""
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
MARK = "#"
"""GSM8K's answers stand behind ``####``, those of the quick start behind ``#``."""


def pass_at_k(n: int, right: int, k: int) -> float:
    """Probability that at least one of k samples, drawn without replacement from n, is right (Chen et al. 2021)."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def maj_at_k(right: int, wrong: Sequence[int], k: int) -> float:
    """Probability that the most frequent answer of k samples, drawn without replacement, is right.

    ``right`` samples have the right answer, ``wrong`` has the number of samples of each wrong one. A tie is decided by
    chance.
    """
    n = right + sum(wrong)
    total = sum(_ways_to_win(right, wrong, k, votes) for votes in range(1, min(k, right) + 1))
    return total / math.comb(n, k)


def _ways_to_win(right: int, wrong: Sequence[int], k: int, votes: int) -> float:
    """Draws in which the right answer has ``votes`` votes and none has more; one with t ties counts 1/(t + 1)."""
    # (samples drawn, wrong answers with as many votes) -> ways
    ways: dict[tuple[int, int], int] = {(votes, 0): math.comb(right, votes)}
    for size in wrong:
        drawn: Counter[tuple[int, int]] = Counter()
        for (so_far, ties), count in ways.items():
            for more in range(min(size, votes, k - so_far) + 1):
                drawn[so_far + more, ties + (more == votes)] += count * math.comb(size, more)
        ways = drawn
    return sum(count / (ties + 1) for (so_far, ties), count in ways.items() if so_far == k)


def answer_of(completion: str) -> str:
    r"""The answer by which wrong completions differ: the last ``\boxed{}``, what follows the last ``#``, or the
    last line."""
    if boxed := _BOXED.findall(completion):
        return str(boxed[-1]).strip()
    if MARK in completion:
        return completion.rsplit(MARK, 1)[1].strip()
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def wilson(right: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share; sound at 0 and 1, where a bootstrap has no width."""
    share, z2 = right / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding may leave an end just outside of the point itself.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def bootstrap(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile interval of ``sum(numerators) / sum(denominators)``, problems drawn with replacement.

    Both are ``[P]``, a value per problem: samples of one problem are no independent draws, problems are.
    """
    problems = len(numerators)
    generator = np.random.default_rng(0)  # the same evaluation always has the same interval
    times = generator.multinomial(problems, np.full(problems, 1 / problems), size=RESAMPLES)  # [RESAMPLES, P]
    below = times @ denominators
    ratios = (times @ numerators)[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)
