"""A learner process, of any rank: loads its start point, then serves and trains or follows rank 0, then exits."""

import errno
import logging
import os
import signal
import threading
from types import FrameType

from rlserve.actors.learner.loop import Stopped
from rlserve.actors.learner.rank0 import Learner
from rlserve.actors.learner.start_point import find_start
from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.ranks import create_rank, follow
from rlserve.actors.learner.train.trainer import Trainer
from rlserve.actors.process import CONFIGURATION_FAULTS, EXIT_CONFIG, EXIT_STOPPED
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError

logger = logging.getLogger(__name__)

FOLLOWER_IDLE_SECONDS = 24 * 3600.0
"""Rank 0 may wait for groups as long as its own limits allow; its death is noticed at once by the closed connection."""


def run_learner(
    config: RunConfig, paths: RunPaths, *, actor_id: str, hub_address: str, address: str = "", resume: bool = False
) -> int:
    """Train to the end of the configuration; returns the exit code.

    0 finished, 143 stopped by a signal (a checkpoint was saved), 1 failed (the log says why), 78 the configuration
    cannot work.
    """
    stop = _stop_on_signals()
    try:
        start = find_start(config, paths, resume=resume)
        rank = create_rank(
            config,
            start_model=start.start_model,
            model_path=start.model_path,
            checkpoint=start.checkpoint,
            rank_info=RankInfo.from_environment(os.environ),
        )
        if rank.engine.rank_info.rank > 0:
            # Without ``stop``: the last checkpoint needs every rank, and rank 0 sends STOP after it.
            follow(rank, idle_seconds=FOLLOWER_IDLE_SECONDS)
            return 0
        trainer = Trainer(config, paths, rank)
        Learner(config, paths, trainer=trainer, start=start, actor_id=actor_id, stop=stop).run(
            hub_address, address or config.learner.address
        )
    except Stopped:
        logger.info("stopped as asked")
        return EXIT_STOPPED
    except CONFIGURATION_FAULTS as error:
        logger.error("%s: %s", type(error).__name__, error)
        return EXIT_CONFIG
    except RlserveError as error:
        logger.error("%s: %s", type(error).__name__, error)
        return 1
    # A full disk is for the operator, in one line; any other OSError is a defect and keeps its traceback.
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        logger.error("LimitExceeded: the disk of %s is full (%s); make room and resume", paths.root, error)
        return 1
    return 0


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        # Only a flag: a handler runs in the middle of whatever the main thread does. The loop looks at it in its
        # waits, saves a checkpoint and ends.
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
