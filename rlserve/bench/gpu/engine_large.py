"""Stage: what ``engine`` measures, with the large model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rlserve.bench.gpu import engine
from rlserve.bench.gpu.rows import Row
from rlserve.bench.gpu.sizes import Sizes


def measure(sizes: Sizes, out: Path) -> Iterator[Row]:
    """The rows of ``engine``."""
    return engine.measure(replace(sizes, small=sizes.large), out)
