"""VerifierSpec: the optional class attributes of a verifier, beyond the ``Verifier`` protocol.

Read in the judge process, the only one that imports plug-ins, and sent to the service as plain data.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.actors.verifier.pipe import Garbage
from rlserve.records.verdict import LARGEST_REWARD

CONCURRENCY = 64
"""Default of ``concurrency``: fills the batch of one inference server without flooding it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierSpec:
    """One registered verifier, as the pool and ``Describe`` need it."""

    name: str
    version: str = ""
    description: str = ""
    reward_range: tuple[float, float] = (0.0, 1.0)
    limit_seconds: float = math.inf
    """Wall-clock limit of one completion, if lower than the configured one."""
    memory_bytes: float = math.inf
    """Address space beyond the size at start, if lower than the configured one."""
    limits_itself: bool = False
    """True if the verifier has limits of its own, e.g. a sandbox; then ``limit_seconds`` holds even above the
    configured limit, which is for verifiers without one."""
    timeout_is_failure: bool = False
    """True if the completion is to blame for a timeout: then it is a FAIL (reason ``timeout``), provided that the
    process was computing. False: the verifier is to blame, no verdict."""
    isolation: str = ""
    """Isolation tier of untrusted code; empty when none runs."""
    judges_groups: bool = False
    """True if it has ``verify_group``, which judges all completions of a task in one call."""
    concurrency: int = 0
    """Calls that an ``async def verify`` runs at once; 0 for a plain ``def verify``."""
    error: str = ""
    """Why the verifier cannot be used; empty when it can."""


def waits(verifier: object) -> bool:
    """Whether ``verify`` is a coroutine function: it waits for a server instead of computing."""
    return inspect.iscoroutinefunction(getattr(verifier, "verify", None))


def spec_of(name: str, verifier: object) -> VerifierSpec:
    """The spec of an instance. Raises ValueError for an invalid reward range."""
    low, high = map(float, getattr(verifier, "reward_range", (0.0, 1.0)))
    if not (-LARGEST_REWARD <= low <= high <= LARGEST_REWARD):
        raise ValueError(f"reward_range: is ({low:g}, {high:g}); give (low, high) within {LARGEST_REWARD:g} of 0")
    return VerifierSpec(
        name=name,
        version=str(getattr(verifier, "version", "")),
        description=str(getattr(verifier, "description", "")),
        reward_range=(low, high),
        limit_seconds=float(getattr(verifier, "limit_seconds", math.inf)),
        memory_bytes=float(getattr(verifier, "memory_bytes", math.inf)),
        limits_itself=bool(getattr(verifier, "limits_itself", False)),
        timeout_is_failure=bool(getattr(verifier, "timeout_is_failure", False)),
        isolation=str(getattr(verifier, "isolation", "")),
        judges_groups=hasattr(verifier, "verify_group"),
        # At least 1: 0 stands for a plain ``verify``.
        concurrency=max(1, int(getattr(verifier, "concurrency", CONCURRENCY))) if waits(verifier) else 0,
    )


def effective_limit_seconds(spec: VerifierSpec, configured: float) -> float:
    """Wall-clock limit of one completion, given the configured one."""
    return spec.limit_seconds if spec.limits_itself else min(spec.limit_seconds, configured)


def encode_spec(spec: VerifierSpec) -> dict[str, Any]:
    """The spec as plain data; an absent limit is null."""
    return {
        "name": spec.name,
        "version": spec.version[:64],
        "description": spec.description[:500],
        "reward_range": list(spec.reward_range),
        # JSON has no infinity.
        "limit_seconds": spec.limit_seconds if math.isfinite(spec.limit_seconds) else None,
        "memory_bytes": spec.memory_bytes if math.isfinite(spec.memory_bytes) else None,
        "limits_itself": spec.limits_itself,
        "timeout_is_failure": spec.timeout_is_failure,
        "isolation": spec.isolation[:64],
        "judges_groups": spec.judges_groups,
        "concurrency": spec.concurrency,
        "error": spec.error[:500],
    }


def decode_spec(message: Mapping[str, Any]) -> VerifierSpec:
    """The checked spec; raises Garbage."""
    try:
        low, high = message["reward_range"]
        limit, memory = message["limit_seconds"], message["memory_bytes"]
        return VerifierSpec(
            name=str(message["name"]),
            version=str(message["version"]),
            description=str(message["description"]),
            reward_range=(float(low), float(high)),
            limit_seconds=math.inf if limit is None else float(limit),
            memory_bytes=math.inf if memory is None else float(memory),
            # ``is True``: the process is not trusted, and bool() takes any text for true.
            limits_itself=message["limits_itself"] is True,
            timeout_is_failure=message["timeout_is_failure"] is True,
            isolation=str(message["isolation"]),
            judges_groups=message["judges_groups"] is True,
            concurrency=int(message["concurrency"]),
            error=str(message["error"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Garbage("a malformed spec") from error
