"""Runs every check, one after the other; a check that breaks is a check that fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlserve.actors.environment.conformance.checks import CHECKS, Check, Skip
from rlserve.actors.environment.conformance.site import Site


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    promise: str
    """What was checked, as a sentence."""
    state: State
    detail: str = ""
    """What is wrong, or why it was skipped."""


async def run_suite(
    site: Site, *, checks: Sequence[Check] = CHECKS, report: Callable[[Finding], None] = lambda finding: None
) -> list[Finding]:
    """All findings; ``report`` hears of each at once."""
    findings = []
    for check in checks:
        finding = await _run(check, site)
        report(finding)
        findings.append(finding)
    return findings


async def _run(check: Check, site: Site) -> Finding:
    name = getattr(check, "__name__", str(check))
    promise = (check.__doc__ or name).strip()
    try:
        detail = await check(site)
    except Skip as reason:
        return Finding(name, promise, State.SKIPPED, str(reason))
    except Exception as error:
        return Finding(name, promise, State.FAILED, f"{type(error).__name__}: {error}")
    return Finding(name, promise, State.FAILED if detail else State.OK, detail)
