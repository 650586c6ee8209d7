"""Puts a checkpoint's copy of the store back in its place."""

import logging
import shutil
from pathlib import Path

from rlserve.actors.learner import checkpoint, manifest
from rlserve.config.paths import RunPaths
from rlserve.errors import StateCorrupt

logger = logging.getLogger(__name__)

JOURNALS = ("", "-wal", "-shm")
"""What SQLite appends to a file's name; a journal must not outlive the file that it belongs to."""


def restore_store(paths: RunPaths) -> int:
    """Go on with the copy in the newest whole checkpoint; returns its step. What was there stays as ``*.replaced``.

    Groups that came in after the checkpoint are gone with it; their tasks are leased again, and steps made since
    are made again. Raises StateCorrupt when there is no such copy.
    """
    found = checkpoint.latest(paths.checkpoints)
    if found is None or not found.store_path.exists():
        raise StateCorrupt(
            f"--restore-store: no checkpoint under {paths.checkpoints} has a copy of the store; put the store back "
            "from elsewhere, or start the run anew with --overwrite"
        )
    for journal in JOURNALS:
        present = Path(f"{paths.store}{journal}")
        if present.exists():
            present.rename(Path(f"{paths.store}.replaced{journal}"))
    partial = paths.store.with_suffix(".partial")
    shutil.copyfile(found.store_path, partial)
    manifest.sync(partial)
    partial.rename(paths.store)
    manifest.sync(paths.store.parent)
    logger.info("the store is that of step %d again", found.step)
    return found.step
