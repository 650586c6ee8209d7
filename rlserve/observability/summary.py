"""``summary.json``: the result of a run in one object."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that is complete or absent, whenever the process or the machine stops."""
    # fsync before the rename: some file systems otherwise keep the name of a file whose content a power failure lost.
    temporary = path.with_suffix(path.suffix + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when the file is missing or holds another value."""
    if not path.exists():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
