"""The rows of a stage as lines of text."""

from collections.abc import Iterator, Sequence
from typing import Any

from rlserve.bench.gpu.rows import Row


def stage_lines(stage: str, end: str, rows: Sequence[Row]) -> Iterator[str]:
    """A heading, then one line a row: what was measured, and its numbers."""
    yield f"{stage}: {end}"
    for row in rows:
        numbers = ", ".join(f"{name} {_shown(value)}" for name, value in row.items() if name != "what")
        yield f"  {row['what']}: {numbers}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(map(_shown, value)) + "]"
    return str(value)
