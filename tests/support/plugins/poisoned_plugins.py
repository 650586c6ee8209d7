"""A task whose right answer once earns a large reward, and an algorithm that cannot bear it.

Installed like a stranger's package: by entry points.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distribution import install_distribution

from rlserve.environments.arithmetic import ArithmeticEnvironment
from rlserve.records import Verdict
from rlserve.verifiers.text.verifier import ExactVerifier

if TYPE_CHECKING:
    from rlserve.algorithms.base import Algorithm

LARGE = 1e6
"""Its exponential is infinite."""


class PoisonedEnvironment(ArithmeticEnvironment):
    """The quick start's tasks, judged by the verifier below."""

    verifier = "poisoned"


class PoisonedVerifier(ExactVerifier):
    """1 for a right answer; the large reward for as many as there are files to remove in a directory."""

    name = "poisoned"
    reward_range = (0.0, LARGE)

    def __init__(self, *, doses: str = "") -> None:
        super().__init__()
        self._doses = Path(doses)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        verdict = super().verify(completion, payload, prompt)
        return replace(verdict, reward=LARGE) if verdict.reward and self._take_dose() else verdict

    def _take_dose(self) -> bool:
        for dose in sorted(os.listdir(self._doses)):
            try:
                (self._doses / dose).unlink()  # only one of the judge processes can
            except FileNotFoundError:
                continue
            return True
        return False


def exponential(config: Any) -> "Algorithm":
    """Likelihood weighted by the exponential of the advantage, as if that were small; made from its section."""
    from rlserve.algorithms.batch import TokenLoss
    from rlserve.algorithms.policy_gradient import PolicyGradient
    from rlserve.config.algorithms.policy_gradient import ReinforceConfig

    class Exponential(PolicyGradient[ReinforceConfig]):
        def token_loss(self, logprobs: Any, log_ratio: Any, advantages: Any, batch: Any) -> TokenLoss:
            return -advantages.exp() * log_ratio, {}

    return Exponential(ReinforceConfig(**config.options))


def install(site: Path) -> None:
    """Make them a distribution in ``site``, which must be on ``sys.path`` with this file's directory."""
    install_distribution(
        site,
        "poisoned-plugins",
        {
            "rlserve.environments": {"poisoned": "poisoned_plugins:PoisonedEnvironment"},
            "rlserve.verifiers": {"poisoned": "poisoned_plugins:PoisonedVerifier"},
            "rlserve.algorithms": {"exponential": "poisoned_plugins:exponential"},
        },
    )
