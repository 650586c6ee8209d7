"""Verifiers that misbehave in one way each, installed like a stranger's package: by entry points.

The text that is judged says what happens: ``hang``, ``spin``, ``exit``, ... ; anything else gets its length.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from distribution import install_distribution

from rlserve.errors import InvalidRequest, NotReady
from rlserve.records import Outcome, Verdict

NAMES = {
    "odd": "OddVerifier",
    "blaming": "BlamingVerifier",
    "waiting": "WaitingVerifier",
    "broken": "BrokenVerifier",
    "slow_to_start": "SlowToStartVerifier",
    "never_ready": "NeverReadyVerifier",
    "stuck_at_start": "StuckAtStartVerifier",
}


class MuteError(Exception):
    """Cannot be printed."""

    def __str__(self) -> str:
        raise ValueError


class OddVerifier:
    """Does what the text says, in the worker that judges it."""

    name = "odd"
    version = "7"
    description = "misbehaves on demand"
    reward_range = (0.0, 1e9)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        word, _, rest = completion.partition(" ")
        match word:
            case "hang":
                time.sleep(60)
            case "sleep":
                time.sleep(float(rest))
            case "spin":
                while True:
                    pass
            case "exit":
                os._exit(3)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "die-once":
                _die_once(Path(rest))
            case "raise":
                raise RuntimeError(rest)
            case "library":
                json.loads("{")
            case "number":
                return 1.0  # type: ignore[return-value]
            case "mute":
                raise MuteError
            case "reward":
                return _verdict(float(rest))
            case "payload":
                raise InvalidRequest("payload: is not to my taste; send another")
            case "eat":
                return _verdict(float(len(bytearray(int(rest)))))
            case "print":
                print("x" * 100_000, flush=True)
                os.write(1, b"\xff" * 10_000)
            case "garbage":
                _write_everywhere(rest.encode())
            case "forge":
                _write_everywhere(b"\x00\x00\x00\x02{}")
            case "close":
                os.closerange(0, 64)
                time.sleep(60)
            case "infinite":
                return _verdict(float("inf"))
            case "environment":
                return _verdict(1.0, reason=" ".join(sorted(os.environ)))
            case "pid":
                return _verdict(float(os.getpid()))
            case "grow":
                self.kept = getattr(self, "kept", b"") + b"x" * int(rest)
            case "echo":
                return _verdict(1.0, reason=ascii((rest, payload, prompt)))
            case "modules":
                return _verdict(float(any(name in sys.modules for name in rest.split())))
        return _verdict(float(len(completion)))


class BlamingVerifier(OddVerifier):
    """The same, but a text that takes too long is to blame itself."""

    name = "blaming"
    timeout_is_failure = True
    limit_seconds = 0.8


class WaitingVerifier(OddVerifier):
    """Waits, many at once; ``meet N`` waits until N are here."""

    name = "waiting"
    limit_seconds = 60.0
    limits_itself = True

    def __init__(self, *, concurrency: int = 64, limit_seconds: float = 60.0) -> None:
        self.concurrency = concurrency
        self.limit_seconds = limit_seconds
        self._here = 0
        self._most = 0

    async def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:  # type: ignore[override]
        word, _, rest = completion.partition(" ")
        self._here += 1
        self._most = max(self._most, self._here)
        try:
            match word:
                case "meet":
                    while self._most < int(rest):
                        await asyncio.sleep(0.01)
                case "sleep":
                    await asyncio.sleep(float(rest))
                case "most":
                    return _verdict(float(self._most))
                case "here":
                    return _verdict(float(self._here))
                case _:
                    return super().verify(completion, payload, prompt)
            return _verdict(1.0)
        finally:
            self._here -= 1


class SlowToStartVerifier(BlamingVerifier):
    """Takes longer to be prepared than its limit, and more memory than it may have."""

    name = "slow_to_start"
    memory_bytes = 2**24

    def prepare(self) -> None:
        deadline = time.process_time() + 1.0
        while time.process_time() < deadline:
            pass
        self.kept = b"x" * 2**26
        self.times_prepared = getattr(self, "times_prepared", 0) + 1

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        if completion == "times prepared":
            return _verdict(float(self.times_prepared))
        return super().verify(completion, payload, prompt)


class NeverReadyVerifier(OddVerifier):
    """Cannot be prepared."""

    name = "never_ready"

    def prepare(self) -> None:
        raise NotReady("options.key: is missing; give one")


class StuckAtStartVerifier(OddVerifier):
    """Is never done with preparing."""

    name = "stuck_at_start"

    def prepare(self) -> None:
        time.sleep(600)


class BrokenVerifier:
    """Cannot be constructed."""

    def __init__(self) -> None:
        raise RuntimeError("no licence")


def install(site: Path) -> None:
    """Make the verifiers a distribution in ``site``, which must be on ``sys.path``."""
    targets = {name: f"odd_verifiers:{kind}" for name, kind in NAMES.items()}
    install_distribution(site, "odd-verifiers", {"rlserve.verifiers": targets})


def _verdict(reward: float, *, reason: str = "") -> Verdict:
    return Verdict(outcome=Outcome.PASS, reward=reward, parts={"length": reward}, reason=reason, passed=1, total=1)


def _die_once(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _write_everywhere(data: bytes) -> None:
    """To every descriptor that takes it, the reply pipe included."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, data)
        except OSError:
            continue
