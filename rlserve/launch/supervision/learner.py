"""Keeps the learner alive: all its ranks start together, and after the death of one all go on from the last checkpoint.

``keep_training``  waits for: the end of rank 0, or the first rank that fails. unblocked by: the processes, or its
                   cancellation.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from rlserve.actors.process import EXIT_CONFIG, EXIT_STOPPED
from rlserve.config.tables.launch import LaunchConfig
from rlserve.launch.plan import ProcessSpec
from rlserve.launch.supervision.deaths import Deaths
from rlserve.launch.supervision.restart_policy import RestartPolicy
from rlserve.launch.supervision.started import Started

logger = logging.getLogger(__name__)

OTHERS_SECONDS = 5.0
"""From one rank's end to that of the others, whose collectives fail when its connection closes. What ends then may be
the cause: a rank that was killed is noticed by its peers as soon as by us."""
RESUME = "--resume"


StartRanks = Callable[[Sequence[ProcessSpec]], Awaitable[Sequence[Started]]]
"""Starts all ranks, with a place at which they meet in their environment."""


async def keep_training(children: Sequence[Started], start: StartRanks, config: LaunchConfig, deaths: Deaths) -> None:
    """Return when rank 0 ended well. Raises RunFailed when another start would not help, or was made too often.

    A rank that a signal killed, or that a SIGTERM from outside stopped after its checkpoint, did not fail by itself:
    all go on from the last checkpoint. One that ended with an error would end with it again.
    """
    policy = RestartPolicy(backoff_seconds=config.restart_backoff_seconds, max_restarts=config.learner_restarts)
    while (failed := await _first_failure(children)) is not None:
        child, status = failed
        came_from_outside = status < 0 or status == EXIT_STOPPED
        pause = policy.pause_after_death(time.monotonic()) if came_from_outside else None
        if pause is None:
            raise deaths.ended_for_good(child, status, "" if came_from_outside else child.last_words())
        deaths.note(child, status, "", restarts=True)
        logger.warning(
            "%s: %s; going on from the last checkpoint in %.1f s", child.spec.name, child.describe(status), pause
        )
        await asyncio.sleep(pause)
        children = await start([_resuming(child.spec) for child in children])
        for child in children:
            deaths.restarted(child)


async def _first_failure(children: Sequence[Started]) -> tuple[Started, int] | None:
    """The rank that failed, with its exit status, once none runs any more; None when rank 0 ended well."""
    waits = {asyncio.create_task(child.wait()): child for child in children}
    ended: dict[int, int] = {}
    try:
        while not any(ended.values()):
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            ended |= {children.index(waits.pop(task)): task.result() for task in done}
            if ended.get(0) == 0:
                return None
        if waits:
            done, _ = await asyncio.wait(waits, timeout=OTHERS_SECONDS)
            ended |= {children.index(waits[task]): task.result() for task in done}
    finally:
        for task in waits:
            task.cancel()
    for child in children:
        child.kill()  # of one that ended, too: its children may have outlived it
    await asyncio.gather(*(child.wait() for child in children))
    return _culprit(children, ended)


def _culprit(children: Sequence[Started], ended: Mapping[int, int]) -> tuple[Started, int]:
    """Of the ranks that ended by themselves the one that explains the others."""
    # A fault of the configuration first, for which a restart is no help; then a kill, which is why peers failed.
    order = sorted((rank for rank in ended if ended[rank]), key=lambda r: (ended[r] != EXIT_CONFIG, ended[r] > 0, r))
    return children[order[0]], ended[order[0]]


def _resuming(spec: ProcessSpec) -> ProcessSpec:
    return spec if RESUME in spec.command else replace(spec, command=(*spec.command, RESUME))
