"""Inputs that public bug reports of this field brought, each with the right value; often absent."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "reported_cases.jsonl"


def cases(*kinds: str) -> list[Any]:
    """A pytest parameter for each row of ``kinds``: a mapping with ``id``, ``kind``, ``input`` and ``expected``.

    One parameter that skips where the file is absent.
    """
    if not PATH.exists():
        reason = f"{PATH.name} is not beside the checkout"
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(row, id=row["id"]) for row in _rows() if row["kind"] in kinds]


@functools.cache
def _rows() -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]
