"""How one end is distinguished from another: by what the reaper reports and by who ended the box."""

import json
import signal

import pytest

from rlserve.sandbox.box import Box, Ending, Pipes
from rlserve.sandbox.judgement import SandboxFault, outcome_of
from rlserve.sandbox.limits import Limits

LIMITS = Limits(cpu_seconds=2, wall_seconds=4, memory_bytes=2**28)


def ended(
    status: int, *, cpu: float = 0.1, peak: int = 2**24, killed: Ending | None = None, late: bool = False
) -> Ending:
    box = Box(pid=0, pidfd=-1, pipes=Pipes(-1, -1, -1, ()), limits=LIMITS, killed=killed, killed_at=5.0)
    box.status += json.dumps({"status": status, "cpu_seconds": cpu, "peak_bytes": peak, "late": late}).encode()
    return box.end().ending


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({"status": 0}, Ending.EXITED),
        ({"status": 3 << 8}, Ending.EXITED),
        ({"status": signal.SIGSEGV}, Ending.CRASHED),
        ({"status": signal.SIGKILL, "cpu": 0.2}, Ending.CRASHED),  # by its own hand
        ({"status": signal.SIGKILL, "cpu": 1.99}, Ending.TIMEOUT),
        ({"status": signal.SIGKILL, "cpu": 1.85}, Ending.TIMEOUT),  # the kernel counts in ticks
        ({"status": signal.SIGXCPU, "cpu": 2.01}, Ending.TIMEOUT),
        ({"status": signal.SIGKILL, "peak": 2**28}, Ending.MEMORY),
        ({"status": 86 << 8}, Ending.MEMORY),
        ({"status": signal.SIGKILL, "killed": Ending.OUTPUT_LIMIT}, Ending.OUTPUT_LIMIT),
        ({"status": signal.SIGKILL, "killed": Ending.STOPPED}, Ending.STOPPED),
        ({"status": signal.SIGKILL, "killed": Ending.TIMEOUT}, Ending.TIMEOUT),  # it slept
        ({"status": signal.SIGKILL, "killed": Ending.STARVED}, Ending.STARVED),
        ({"status": signal.SIGKILL, "late": True}, Ending.LOST),  # the service did not end it
    ],
)
def test_each_end_is_told_from_the_others(fields: dict[str, object], ending: Ending) -> None:
    assert ended(**fields) is ending  # type: ignore[arg-type]


@pytest.mark.parametrize(("killed", "ending"), [(None, Ending.LOST), (Ending.TIMEOUT, Ending.TIMEOUT)])
def test_an_end_without_a_report_is_lost_unless_we_ended_it(killed: Ending | None, ending: Ending) -> None:
    box = Box(pid=0, pidfd=-1, pipes=Pipes(-1, -1, -1, ()), limits=LIMITS, killed=killed)
    assert box.end().ending is ending


@pytest.mark.parametrize("status", ["", "{}", "x", '{"status": "0"}', '{"error": "no room"}'])
def test_a_reaper_that_says_nothing_sensible_is_a_fault_and_no_judgement(status: str) -> None:
    box = Box(pid=0, pidfd=-1, pipes=Pipes(-1, -1, -1, ()), limits=LIMITS)
    box.status += status.encode()
    with pytest.raises(SandboxFault, match="lost"):
        outcome_of(box.end())
