"""Tasks that give nothing to train on, installed like a stranger's package: by entry points."""

from pathlib import Path

from distribution import install_distribution

from rlserve.environments.arithmetic import ArithmeticEnvironment
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.text.verifier import ExactVerifier


class RaisesEnvironment(ArithmeticEnvironment):
    """The quick start's tasks, judged by a verifier with a defect."""

    verifier = "raises"


class RaisesVerifier(ExactVerifier):
    """Divides by zero."""

    name = "raises"

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        return Verdict(outcome=Outcome.PASS, reward=1 / (len(completion) * 0))


class UnsolvableEnvironment(ArithmeticEnvironment):
    """The quick start's tasks, of which no answer is right."""

    verifier = "unsolvable"


class UnsolvableVerifier(ExactVerifier):
    """Always 0."""

    name = "unsolvable"

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        return Verdict(outcome=Outcome.FAIL, reward=0.0)


def install(site: Path) -> None:
    """Make them a distribution in ``site``, which must be on ``sys.path`` with this file's directory."""
    install_distribution(
        site,
        "starving-plugins",
        {
            "rlserve.environments": {
                "raises": "starving_plugins:RaisesEnvironment",
                "unsolvable": "starving_plugins:UnsolvableEnvironment",
            },
            "rlserve.verifiers": {
                "raises": "starving_plugins:RaisesVerifier",
                "unsolvable": "starving_plugins:UnsolvableVerifier",
            },
        },
    )
