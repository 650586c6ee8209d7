"""Every kind of the reported inputs is walked by a test of this folder."""

import json
from pathlib import Path

import pytest

from tests.support.reported import PATH, cases


def test_each_kind_has_its_test() -> None:
    if not PATH.exists():
        pytest.skip(f"{PATH.name} is not beside the checkout")
    kinds = {json.loads(line)["kind"] for line in PATH.read_text(encoding="utf-8").splitlines()}
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_reported_*.py"))
    assert not [kind for kind in sorted(kinds) if f'"{kind}"' not in tests]
    assert len(cases(*kinds)) == 156
