"""The way from a reward function to the first step: a script short enough, and both sides run."""

from pathlib import Path

import pytest

from rlserve.bench.journey import SCRIPTS, TARGET_LINES, measure
from rlserve.errors import InvalidRequest


def test_both_scripts_are_short_and_have_the_same_function(tmp_path: Path) -> None:
    functions = set()
    for name, script in SCRIPTS.items():
        compile(script, name, "exec")
        functions.add(script.partition("def digits")[2].partition("\n\n")[0])
    assert len(functions) == 1
    assert len(SCRIPTS["rlserve"].strip().splitlines()) <= TARGET_LINES
    with pytest.raises(InvalidRequest, match="--only: is 'tlr'; give one of rlserve, trl"):
        measure(out=str(tmp_path / "out"), only=["tlr"])


@pytest.mark.whole
@pytest.mark.timeout(1500)
def test_the_clock_stops_at_the_first_step(tmp_path: Path) -> None:
    found = measure(out=str(tmp_path / "journey"), seeds=1)
    assert all(len(found[name]["seconds"]) == 1 and found[name]["seconds"][0] > 1 for name in SCRIPTS)
    assert found["ratio_of_medians"] > 0
