"""Runs every check, one after the other; a check that raises counts as failed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlserve.actors.environment.conformance.checks import CHECKS, Check
from rlserve.actors.environment.conformance.episode_checks import EPISODE_CHECKS
from rlserve.actors.environment.conformance.site import Site, Skip


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    promise: str
    """The promise that was checked, as a sentence."""
    state: State
    detail: str = ""
    """The fault, or why the check was skipped."""


async def run_suite(
    site: Site, *, checks: Sequence[Check] | None = None, report: Callable[[Finding], None] = lambda finding: None
) -> list[Finding]:
    """All findings; calls ``report`` with each one as soon as it is known.

    Without ``checks`` it runs all that apply to the environment: those of episodes only if it has several turns.
    """
    findings = []
    if checks is None:
        checks = (*CHECKS, *EPISODE_CHECKS) if site.spec.multi_turn else CHECKS
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
