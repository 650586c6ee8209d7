from types import SimpleNamespace

import pytest

from rlserve import plugins
from rlserve.algorithms import registry
from rlserve.algorithms.base import Algorithm
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.errors import PluginFailed, UnknownName


def test_the_built_in_comes_through_the_registry():
    assert "grpo" in registry.names()
    algorithm = registry.create(GrpoConfig())
    assert isinstance(algorithm, Algorithm)
    assert algorithm.needs == {"entropy"}


def test_an_unknown_algorithm_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"'grpoo' is not registered; did you mean 'grpo'\? \(known: .*grpo"):
        registry.create(SimpleNamespace(type="grpoo"))


def test_a_plug_in_that_is_no_algorithm_is_refused(monkeypatch):
    monkeypatch.setattr(plugins, "load", lambda group, name: lambda config: object())
    with pytest.raises(PluginFailed, match="why_drop"):
        registry.create(SimpleNamespace(type="mine"))
