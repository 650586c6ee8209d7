"""Environments and verifiers with one mistake each, installed like a stranger's package: by entry points."""

import asyncio
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from rlserve.records import Message, Outcome, Task, Verdict

ENVIRONMENTS = {
    "asks": "AsksFor",
    "dies_at_start": "DiesAtStart",
    "gives_nothing": "GivesNothing",
    "hangs": "Hangs",
    "unimportable": "no_such_attribute",
}
VERIFIERS = {
    "digits": "Digits",
    "raises": "Raises",
    "returns_nan": "ReturnsNan",
    "returns_float": "ReturnsFloat",
    "fears_empty": "FearsEmpty",
    "waits": "Waits",
    "waits_in_vain": "WaitsInVain",
    "unimportable": "no_such_attribute",
}


class AsksFor:
    """Wants the verifier and the prompt length that its options name."""

    name = "asks"
    version = "1"

    def __init__(self, *, verifier: str = "digits", characters: int = 3, role: str = "") -> None:
        self.verifier = verifier
        self._characters = characters
        self._role = role

    @property
    def splits(self) -> Mapping[str, int]:
        return {"train": 0, "test": 0}

    def task(self, split: str, index: int, seed: int) -> Task:
        text = "1" * self._characters
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{index}",
            prompt=(Message(role=self._role, content=text),) if self._role else text,
            verifier=self.verifier,
            payload=b"{}",
            seed=seed,
        )


class DiesAtStart(AsksFor):
    def __init__(self) -> None:
        os._exit(9)


class Hangs(AsksFor):
    def __init__(self) -> None:
        super().__init__()
        time.sleep(600)


class GivesNothing(AsksFor):
    def task(self, split: str, index: int, seed: int) -> Task:
        raise KeyError("question")


class Digits:
    """The share of digits."""

    name = "digits"
    version = "1"

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        share = sum(map(str.isdigit, completion)) / max(len(completion), 1)
        return Verdict(outcome=Outcome.PASS if share == 1 else Outcome.FAIL, reward=share)


class Raises(Digits):
    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        return Verdict(outcome=Outcome.PASS, reward=1 / 0)


class ReturnsNan(Digits):
    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        return Verdict(outcome=Outcome.PASS, reward=math.nan)


class ReturnsFloat(Digits):
    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        return 1.0  # type: ignore[return-value]


class FearsEmpty(Digits):
    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        return Verdict(outcome=Outcome.FAIL, reward=1 / len(completion))


class Waits(Digits):
    async def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().verify(completion, payload, prompt)


class WaitsInVain(Digits):
    async def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:  # type: ignore[override]
        raise ConnectionRefusedError("no judge here")


def install(site: Path) -> str:
    """Make them a distribution in ``site``; returns what PYTHONPATH must be for others to find it."""
    info = site / "mistaken_plugins-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mistaken-plugins\nVersion: 1\n")
    lines = []
    for group, names in (("rlserve.environments", ENVIRONMENTS), ("rlserve.verifiers", VERIFIERS)):
        lines += [f"[{group}]", *(f"{name} = mistaken_plugins:{made}" for name, made in names.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return os.pathsep.join([str(site), str(Path(__file__).parent)])
