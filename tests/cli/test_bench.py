"""``rlserve bench``: every name that it offers is a benchmark."""

import importlib

import pytest

from rlserve.cli.bench import BENCHES, LONG


@pytest.mark.parametrize("name", [*BENCHES, *LONG])
def test_every_name_is_a_module_that_measures(name: str) -> None:
    assert callable(importlib.import_module(f"rlserve.bench.{name}").measure)
