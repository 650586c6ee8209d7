"""A task whose right answer once earns an absurd reward, installed like a stranger's package: by entry points."""

import os
from dataclasses import replace
from pathlib import Path

from rlserve.environments.arithmetic import ArithmeticEnvironment
from rlserve.records import Verdict
from rlserve.verifiers.text.verifier import ExactVerifier

ABSURD = 3e38
"""Finite, as a float32 too; its square is not."""


class PoisonedEnvironment(ArithmeticEnvironment):
    """The quick start's tasks, judged by the verifier below."""

    verifier = "poisoned"


class PoisonedVerifier(ExactVerifier):
    """1 for a right answer; the absurd reward for as many as there are files to remove in a directory."""

    name = "poisoned"
    reward_range = (0.0, ABSURD)

    def __init__(self, *, doses: str = "") -> None:
        super().__init__()
        self._doses = Path(doses)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        verdict = super().verify(completion, payload, prompt)
        return replace(verdict, reward=ABSURD) if verdict.reward and self._take_dose() else verdict

    def _take_dose(self) -> bool:
        for dose in sorted(os.listdir(self._doses)):
            try:
                (self._doses / dose).unlink()  # only one of the judging processes can
            except FileNotFoundError:
                continue
            return True
        return False


def install(site: Path) -> None:
    """Make them a distribution in ``site``, which must be on ``sys.path`` with this file's directory."""
    info = site / "poisoned_plugins-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poisoned-plugins\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[rlserve.environments]\npoisoned = poisoned_plugins:PoisonedEnvironment\n"
        "[rlserve.verifiers]\npoisoned = poisoned_plugins:PoisonedVerifier\n"
    )
