"""Puts a checkpoint's copy of the store back in its place."""

import logging

from rlserve.actors.checkpoints import latest
from rlserve.config.paths import RunPaths
from rlserve.errors import StateCorrupt
from rlserve.store.base import StoreBackend

logger = logging.getLogger(__name__)


def restore_store(backend: StoreBackend, paths: RunPaths) -> tuple[int, str]:
    """Go on with the copy in the newest whole checkpoint; returns its step, and where what was there is kept.

    Groups that came in after the checkpoint are gone with it; their tasks are leased again, and steps made since
    are made again. Raises StateCorrupt when there is no such copy.
    """
    found = latest(paths.checkpoints)
    if found is None or not found.store_path.exists():
        raise StateCorrupt(
            f"--restore-store: no checkpoint under {paths.checkpoints} has a copy of the store; put the store back "
            "from elsewhere, or start the run anew with --overwrite"
        )
    replaced = backend.put_back(found.store_path, paths)
    logger.info("the store is that of step %d again", found.step)
    return found.step, replaced
