"""Before any test imports torch: the suite shares its cores, like everything that rlserve starts."""

from pathlib import Path

import pytest
from hypothesis import settings

from rlserve.idle_threads import sleep_when_idle

sleep_when_idle()

# How long an example takes is the machine's affair.
settings.register_profile("rlserve", deadline=None)
settings.load_profile("rlserve")


WHOLE_RUNS = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``-n 2``: whole runs, which share a checkpoint, go to one worker from the start, the rest to the other.

    Tests of one file stay together, so that its engines and servers start once.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        whole = WHOLE_RUNS in item.path.parents
        item.add_marker(pytest.mark.xdist_group("e2e" if whole else str(item.path)))
    if config.getoption("numprocesses"):
        items.sort(key=lambda item: WHOLE_RUNS not in item.path.parents)
