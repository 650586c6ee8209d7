"""Keeps one process of a run alive: hub, servers, rollout workers; what runs once is watched to its end.

``keep_running``  waits for: its exit, again and again. unblocked by: the process, or its cancellation.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from rlserve.actors.process import EXIT_CONFIG
from rlserve.config.tables.launch import LaunchConfig
from rlserve.launch.base import RunFailed
from rlserve.launch.supervision.deaths import Deaths, quoted
from rlserve.launch.supervision.restart_policy import RestartPolicy, StartFailures
from rlserve.launch.supervision.started import Start, Started

logger = logging.getLogger(__name__)

EARLY = "it ended as if the run were over, but the learner is still running"


async def keep_running(
    child: Started, start: Start, config: LaunchConfig, deaths: Deaths, run_ends: Callable[[], Awaitable[bool]]
) -> None:
    """Start ``child`` again whenever it dies; return when it ended well because the run ends.

    ``run_ends``: whether an actor that ended well was right. Raises RunFailed when another start would not help.
    """
    spec = child.spec
    policy = RestartPolicy(backoff_seconds=config.restart_backoff_seconds, max_restarts=config.max_restarts)
    failures = StartFailures()
    while True:
        status = await child.wait()
        child.kill()  # grandchildren in its group may have outlived it
        # A restartable actor ends with 0 only when it takes the run for over.
        if status == 0 and (not spec.restartable or await run_ends()):
            return
        # A process that a signal killed wrote nothing about it: its last lines would name a wrong cause.
        said = child.last_words() if status > 0 else EARLY if status == 0 else ""
        if not spec.restartable or status == EXIT_CONFIG:
            raise deaths.ended_for_good(child, status, said)
        # Asked at each death, also of actors that came up once, because it counts equal last words in a row.
        hopeless = failures.is_hopeless(said, came_up=spec.name in deaths.came_up)
        pause = None if hopeless else policy.pause_after_death(time.monotonic())
        deaths.note(child, status, said, restarts=pause is not None)
        if pause is None:
            raise RunFailed(_gave_up(child, status, said, hopeless=hopeless, restarts=config.max_restarts))
        logger.info("%s: %s; restarting in %.1f s", spec.name, child.describe(status), pause)
        await asyncio.sleep(pause)
        child = await start(spec)
        deaths.restarted(child)


def _gave_up(child: Started, status: int, said: str, *, hopeless: bool, restarts: int) -> str:
    why = (
        "it never registered, and failed alike each time"
        if hopeless
        else f"it was restarted {restarts} times already (launch.max_restarts)"
    )
    return f"{child.spec.name}: {child.describe(status)}, and {why}{quoted(said)}\nlog: {child.log}"
