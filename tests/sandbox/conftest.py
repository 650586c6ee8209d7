"""One proven sandbox for the tests of a module."""

from collections.abc import Iterator

import pytest

from rlserve.sandbox.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as found:
        yield found
