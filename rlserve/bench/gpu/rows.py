"""What stages write: one JSON line a measurement, on disk at once, since a stage may be killed after it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""One measurement: ``what`` names it, the other entries are numbers or words."""


def path_of(out: Path, stage: str) -> Path:
    """File of a stage's rows."""
    return out / f"{stage}.jsonl"


def write_rows(out: Path, stage: str, rows: Iterable[Row]) -> None:
    """Append each row as soon as it is measured."""
    with open(path_of(out, stage), "a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()


def read_rows(out: Path, stage: str) -> list[Row]:
    """All whole rows of a stage; none when it wrote none."""
    try:
        lines = path_of(out, stage).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    # A killed stage may leave a part of a line.
    return [json.loads(line) for line in lines if line.endswith("}")]
