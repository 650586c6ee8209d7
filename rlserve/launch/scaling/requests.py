"""What ``rlserve scale`` asks a running run for: counts by pool, in a file that the launcher takes."""

import json
from collections.abc import Mapping
from pathlib import Path

from rlserve.observability.summary import write_json


def ask(path: Path, counts: Mapping[str, int]) -> None:
    """Write the request, whole or not at all, over an older one that was not taken."""
    write_json(path, dict(counts))


def taken(path: Path) -> dict[str, int]:
    """The request, which is then gone; empty without one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    path.unlink(missing_ok=True)
    if not isinstance(values, dict):
        return {}
    return {str(name): count for name, count in values.items() if isinstance(count, int) and count >= 1}
