"""An algorithm from outside: one file and one entry point, as docs/algorithms.md shows."""

import pytest
import torch

from rlserve.algorithms import registry
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.config.algorithms.section import PluginAlgorithmConfig
from rlserve.errors import PluginFailed
from tests.support.models.token_batches import padded, random_samples, scatter, whole

SOURCE = """
from typing import Literal

import torch

from rlserve.algorithms.policy_gradient import PolicyGradient
from rlserve.config.algorithms.policy_gradient import AveragingConfig


class SapoConfig(AveragingConfig):
    type: Literal["sapo"] = "sapo"
    temperature: float = 1.0


class Sapo(PolicyGradient[SapoConfig]):
    def __init__(self, config):
        super().__init__(SapoConfig(**config.options))

    def token_loss(self, logprobs, log_ratio, advantages, batch):
        tau = self.config.temperature
        soft = torch.sigmoid(tau * (log_ratio.exp() - 1)) * 4 / tau
        return -soft * advantages, {}
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution on the path, as pip leaves it."""
    (tmp_path / "sapo_for_rlserve.py").write_text(SOURCE)
    info = tmp_path / "sapo_for_rlserve-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sapo-for-rlserve\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rlserve.algorithms]\nsapo = sapo_for_rlserve:Sapo\nbroken = sapo_for_rlserve_missing:Sapo\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_an_installed_plug_in_is_found_and_trains(installed):
    assert "sapo" in registry.names()
    algorithm = registry.create(PluginAlgorithmConfig(type="sapo", options={"temperature": 2.0}))
    samples = random_samples([3, 4], 0)
    batch = padded(samples)
    policy = scatter(samples, "policy", batch).requires_grad_()
    out = algorithm.loss(PolicyOutputs(logprobs=policy), batch, whole(batch))
    out.loss.backward()
    w = (policy.detach() - batch.behavior_logprobs).exp()
    soft = torch.sigmoid(2.0 * (w - 1))
    expected = -batch.advantages * 4 * soft * (1 - soft) * w / 7
    torch.testing.assert_close(policy.grad[batch.loss_mask > 0], expected[batch.loss_mask > 0])


def test_a_plug_in_that_cannot_be_imported_is_named(installed):
    with pytest.raises(PluginFailed, match="'broken' cannot be imported"):
        registry.create(PluginAlgorithmConfig(type="broken"))
