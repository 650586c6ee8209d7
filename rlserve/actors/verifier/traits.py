"""What a verifier class says of itself, beyond the ``Verifier`` protocol: optional class attributes.

Read in the worker, which alone imports plug-ins, and sent to the service as plain data.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.actors.verifier.frames import Garbage
from rlserve.records.verdict import LARGEST_REWARD

CONCURRENCY = 64
"""Completions that an ``async def verify`` judges at once, unless its ``concurrency`` says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierTraits:
    """One registered verifier, as the pool and ``Describe`` need it."""

    name: str
    version: str = ""
    description: str = ""
    reward_range: tuple[float, float] = (0.0, 1.0)
    limit_seconds: float = math.inf
    """Wall limit of one completion, if lower than the configured one."""
    memory_bytes: float = math.inf
    """Address space beyond the size at start, if lower than the configured one."""
    limits_itself: bool = False
    """True when the verifier ends what it judges by limits of its own, e.g. a sandbox; then ``limit_seconds`` counts
    even where it is above the configured one, which is meant for judging that has none."""
    timeout_is_failure: bool = False
    """True when the judged text is to blame for taking too long: then a timeout is a FAIL (reason
    ``timeout``), provided that the worker was computing. False: it is the verifier's trouble, no verdict."""
    isolation: str = ""
    """Isolation tier of untrusted code; empty when none runs."""
    concurrency: int = 0
    """Completions that an ``async def verify``, which waits for others, judges at once; 0 for one that computes."""
    error: str = ""
    """Why the verifier cannot be used; empty when it can."""


def waits(verifier: object) -> bool:
    """Whether ``verify`` is a coroutine function: it waits for others instead of computing."""
    return inspect.iscoroutinefunction(getattr(verifier, "verify", None))


def traits_of(name: str, verifier: object) -> VerifierTraits:
    """Traits of an instance. Raises ValueError for a range that bounds nothing."""
    low, high = map(float, getattr(verifier, "reward_range", (0.0, 1.0)))
    if not (-LARGEST_REWARD <= low <= high <= LARGEST_REWARD):
        raise ValueError(f"reward_range: is ({low:g}, {high:g}); give (low, high) within {LARGEST_REWARD:g} of 0")
    return VerifierTraits(
        name=name,
        version=str(getattr(verifier, "version", "")),
        description=str(getattr(verifier, "description", "")),
        reward_range=(low, high),
        limit_seconds=float(getattr(verifier, "limit_seconds", math.inf)),
        memory_bytes=float(getattr(verifier, "memory_bytes", math.inf)),
        limits_itself=bool(getattr(verifier, "limits_itself", False)),
        timeout_is_failure=bool(getattr(verifier, "timeout_is_failure", False)),
        isolation=str(getattr(verifier, "isolation", "")),
        concurrency=max(1, int(getattr(verifier, "concurrency", CONCURRENCY))) if waits(verifier) else 0,
    )


def effective_limit_seconds(traits: VerifierTraits, configured: float) -> float:
    """Wall limit of one completion, given the configured one."""
    return traits.limit_seconds if traits.limits_itself else min(traits.limit_seconds, configured)


def encode_traits(traits: VerifierTraits) -> dict[str, Any]:
    """As plain data; an absent limit is null."""
    return {
        "name": traits.name,
        "version": traits.version[:64],
        "description": traits.description[:500],
        "reward_range": list(traits.reward_range),
        "limit_seconds": traits.limit_seconds if math.isfinite(traits.limit_seconds) else None,
        "memory_bytes": traits.memory_bytes if math.isfinite(traits.memory_bytes) else None,
        "limits_itself": traits.limits_itself,
        "timeout_is_failure": traits.timeout_is_failure,
        "isolation": traits.isolation[:64],
        "concurrency": traits.concurrency,
        "error": traits.error[:500],
    }


def decode_traits(message: Mapping[str, Any]) -> VerifierTraits:
    """Checked traits; raises Garbage."""
    try:
        low, high = message["reward_range"]
        limit, memory = message["limit_seconds"], message["memory_bytes"]
        return VerifierTraits(
            name=str(message["name"]),
            version=str(message["version"]),
            description=str(message["description"]),
            reward_range=(float(low), float(high)),
            limit_seconds=math.inf if limit is None else float(limit),
            memory_bytes=math.inf if memory is None else float(memory),
            limits_itself=message["limits_itself"] is True,
            timeout_is_failure=message["timeout_is_failure"] is True,
            isolation=str(message["isolation"]),
            concurrency=int(message["concurrency"]),
            error=str(message["error"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Garbage("traits that are none") from error
