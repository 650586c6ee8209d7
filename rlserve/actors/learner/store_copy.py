"""Replaces a run's store by the copy in its newest checkpoint."""

import logging

from rlserve.actors.checkpoints import latest
from rlserve.config.paths import RunPaths
from rlserve.errors import StateCorrupt
from rlserve.store.base import StoreBackend

logger = logging.getLogger(__name__)


def restore_store(backend: StoreBackend, paths: RunPaths) -> tuple[int, str]:
    """Restore the copy in the newest whole checkpoint; returns its step, and where the replaced store is kept.

    Groups received after the checkpoint are lost; their tasks are leased again, and steps made since are made again.
    Raises StateCorrupt when there is no such copy.
    """
    found = latest(paths.checkpoints)
    if found is None or not found.store_path.exists():
        raise StateCorrupt(
            f"--restore-store: no checkpoint under {paths.checkpoints} has a copy of the store; put the store back "
            "from elsewhere, or start the run over with --overwrite"
        )
    replaced = backend.put_back(found.store_path, paths)
    logger.info("restored the store of step %d", found.step)
    return found.step, replaced
