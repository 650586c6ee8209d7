"""Before any test imports torch: the suite shares its cores, like everything that rlserve starts."""

import pytest
from hypothesis import settings

from rlserve.idle_threads import sleep_when_idle

sleep_when_idle()

# How long an example takes is the machine's affair.
settings.register_profile("rlserve", deadline=None)
settings.load_profile("rlserve")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the longest tests first: short ones then fill both test processes to the end.

    The quick start comes before all: many files wait for it, and the other process has enough to do meanwhile.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_quickstart.py", item.path not in slow))  # stable in a file
