"""Where training begins: the start model or the run's newest checkpoint, with the store that belongs to it."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rlserve.actors.checkpoints import Checkpoint, latest
from rlserve.actors.learner.loop_state import LoopState
from rlserve.actors.learner.train.deepspeed_setup import import_libraries
from rlserve.actors.start_model import wait_for_start_model
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.warner import Warner
from rlserve.store.base import Store
from rlserve.store.binding import RunFacts, bind, check_is_there, check_mark
from rlserve.store.patient import Patience, patient
from rlserve.store.registry import backend_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPoint:
    """What to load."""

    start_model: str
    """The run's first model: the reference of algorithms that need one."""
    model_path: str
    """The model to train on."""
    state: LoopState
    checkpoint: Checkpoint | None = None


def find_start(config: RunConfig, paths: RunPaths, *, resume: bool) -> StartPoint:
    """Wait for the start model and find the checkpoint to resume from.

    Raises StateCorrupt when there are checkpoints and none is whole.
    """
    # First, because it takes seconds in which the start model may still be in the making.
    import_libraries()
    start_model = wait_for_start_model(config, paths)
    checkpoint = latest(paths.checkpoints) if resume else None
    if checkpoint is None:
        return StartPoint(start_model=start_model, model_path=start_model, state=LoopState())
    logger.info("resuming from step %d", checkpoint.step)
    return StartPoint(
        start_model=start_model,
        model_path=str(checkpoint.model_path),
        state=LoopState.from_json(checkpoint.state),
        checkpoint=checkpoint,
    )


def open_store(
    config: RunConfig, paths: RunPaths, state: LoopState, warn: Warner, stop: threading.Event | None = None
) -> Store:
    """The run's store. Raises StateCorrupt or InvalidRequest when it does not belong to the start point.

    While the server of a remote one is away its calls wait, until ``stop`` is set.
    """
    backend = backend_of(config.store)
    patience = Patience(limit_seconds=config.learner.max_wait_seconds, warn=warn, stop=stop)
    call = patience.call if backend.is_remote else _at_once
    if state.store is not None:
        # Before ``open``, which would create an empty store in its place.
        call(lambda: check_is_there(backend, paths, step=state.step))
    store = call(lambda: backend.open(paths))
    if backend.is_remote:
        store = patient(store, patience)
    try:
        # Before ``bind``, which writes: a store that is refused stays as it is.
        check_mark(store.marked(), state.store, step=state.step, root=paths.root)
        for change in bind(store, RunFacts.of(config)):
            warn(change)
    except BaseException:
        store.close()
        raise
    return store


def _at_once(function: Callable[[], T]) -> T:
    return function()
