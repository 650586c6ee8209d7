"""Ties a store to its run and to the run's checkpoints, so that no run continues with another run's store.

A checkpoint keeps the mark that the store made for it. A store that is missing, belongs to another run or is older than
the checkpoint is refused: with it, tasks that were trained on already would be trained on again. Every checkpoint holds
a copy of the store to continue with instead.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.store.base import Store, StoreBackend, StoreMark

RUN_FACT = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The part of a run's configuration on which its stored groups and leases depend."""

    name: str
    """The prefix of all group ids."""
    seed: int
    """Determines all tasks and their samples."""
    group_size: int

    @classmethod
    def of(cls, config: RunConfig) -> "RunFacts":
        """The facts of a configuration."""
        return cls(name=config.name, seed=config.seed, group_size=config.rollout.group_size)


def resume_command(root: Path) -> str:
    """The command that continues a run with the copy of its store."""
    return f"rlserve run --resume {root} --restore-store"


def check_mark(store: StoreMark, checkpoint: StoreMark | None, *, step: int, root: Path) -> None:
    """Raise StateCorrupt unless a run can continue from ``checkpoint`` (None: from its start) with the store."""
    if checkpoint is None:
        # With one mark, the run was killed while it wrote its first checkpoint: all payloads are still there.
        if store.sequence > 1:
            raise StateCorrupt(
                f"checkpoints: there is none, but the store in {root} belongs to {store.sequence}; put them back, "
                "or start the run over with --overwrite"
            )
        return
    if store.store_id != checkpoint.store_id:
        raise StateCorrupt(
            f"store: the one in {root} was not made by this run, whose newest checkpoint is of step {step}; put the "
            f"run's own back, or continue with the copy in that checkpoint: {resume_command(root)}"
        )
    # Smaller only: a newer store is the usual case after a crash between two checkpoints, and is rolled back.
    if store.sequence < checkpoint.sequence:
        raise StateCorrupt(
            f"store: the one in {root} is older than the checkpoint of step {step} (mark {store.sequence}, the "
            f"checkpoint's is {checkpoint.sequence}): groups that were trained on would be trained on again; put the "
            f"newer one back, or continue with the copy in that checkpoint: {resume_command(root)}"
        )


def check_is_there(backend: StoreBackend, paths: RunPaths, *, step: int) -> None:
    """Raise StateCorrupt when the store is missing beside a checkpoint of ``step``."""
    if not backend.exists(paths):
        raise StateCorrupt(
            f"store: {backend.place(paths)} is missing, but there is a checkpoint of step {step}: with an empty one "
            "the run would repeat tasks that it trained on; put it back, or continue with the copy in that "
            f"checkpoint: {resume_command(paths.root)}"
        )


def check_is_new(backend: StoreBackend, paths: RunPaths) -> None:
    """Raise InvalidRequest when a run that begins would find groups of another one."""
    if backend.exists(paths):
        raise InvalidRequest(
            f"name: {backend.place(paths)} holds the groups of a run of this name in another directory; choose another "
            "name with --set name=NAME, or another prefix with --set store.options.prefix=PREFIX"
        )


def bind(store: Store, facts: RunFacts) -> Iterator[str]:
    """Tie a new store to its run, or check a known one; yields a warning for each accepted change.

    Raises InvalidRequest for a change that a resumed run cannot accept.
    """
    known = store.recall(RUN_FACT)
    if known is not None:
        yield from changes(RunFacts(**json.loads(known)), facts)
    store.remember(RUN_FACT, json.dumps(asdict(facts)))


def changes(before: RunFacts, now: RunFacts) -> Iterator[str]:
    """A warning for each change that a resumed run accepts. Raises InvalidRequest for one that it cannot accept."""
    if before.name != now.name:
        raise InvalidRequest(
            f"name: is {now.name!r}, but this run began as {before.name!r}, which is part of its group ids; resume it "
            "under its own name, or begin another run"
        )
    if before.seed != now.seed:
        raise InvalidRequest(
            f"seed: is {now.seed}, but this run began with {before.seed}, which determines all its tasks; resume "
            "it without the change, or begin another run"
        )
    if before.group_size != now.group_size:
        yield (
            f"rollout.group_size: is {now.group_size} now, was {before.group_size}: queued groups keep their size, "
            "new ones have the new size"
        )


def stored_facts(backend: StoreBackend, paths: RunPaths) -> RunFacts | None:
    """The facts in a store, without opening it for writing; None when it has none or cannot be read."""
    kept = backend.peek(paths, RUN_FACT)
    with contextlib.suppress(ValueError, TypeError):
        return None if kept is None else RunFacts(**json.loads(kept))
    return None
