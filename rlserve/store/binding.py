"""What ties a store to its run and to the run's checkpoints, so that none goes on with another's.

A checkpoint keeps the mark that the store made for it. A store that is missing, of another run, or older than the
checkpoint would hand out tasks again that were trained on already: it is refused. Every checkpoint holds a copy of
the store to go on with instead.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.store.base import Store, StoreMark

RUN_FACT = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What of a run's configuration its stored groups and leases depend on."""

    name: str
    """Group ids begin with it."""
    seed: int
    """Decides all tasks and their samples."""
    group_size: int

    @classmethod
    def of(cls, config: RunConfig) -> "RunFacts":
        """As a configuration has them."""
        return cls(name=config.name, seed=config.seed, group_size=config.rollout.group_size)


def way_on(root: Path) -> str:
    """How to go on with the copy of the store, as a command."""
    return f"rlserve run --resume {root} --restore-store"


def check_mark(store: StoreMark, checkpoint: StoreMark | None, *, step: int, root: Path) -> None:
    """Raise StateCorrupt unless a run can go on at ``checkpoint`` (None: at its start) with the store."""
    if checkpoint is None:
        if store.sequence > 1:  # what the first steps trained on is kept until the second
            raise StateCorrupt(
                f"checkpoints: there is none, but the store in {root} was kept beside {store.sequence}; put them back, "
                "or start the run anew with --overwrite"
            )
        return
    if store.store_id != checkpoint.store_id:
        raise StateCorrupt(
            f"store: the one in {root} was not made by this run, whose newest checkpoint is of step {step}; put the "
            f"run's own back, or go on with the copy in that checkpoint: {way_on(root)}"
        )
    if store.sequence < checkpoint.sequence:
        raise StateCorrupt(
            f"store: the one in {root} is older than the checkpoint of step {step} (mark {store.sequence}, the "
            f"checkpoint's is {checkpoint.sequence}): groups that were trained on would be trained on again; put the "
            f"newer one back, or go on with the copy in that checkpoint: {way_on(root)}"
        )


def check_is_there(path: Path, *, step: int) -> None:
    """Raise StateCorrupt when a checkpoint of ``step`` is there and the store beside it is not."""
    if not path.exists():
        raise StateCorrupt(
            f"store: {path} is missing, but there is a checkpoint of step {step}: with an empty one the run would "
            f"train again on what it was trained on; put it back, or go on with the copy in that checkpoint: "
            f"{way_on(path.parent)}"
        )


def bind(store: Store, facts: RunFacts) -> Iterator[str]:
    """Tie a store to its run, or check that it is; yields a warning for each change that is taken.

    Raises InvalidRequest for a change that cannot be.
    """
    known = store.recall(RUN_FACT)
    if known is not None:
        yield from changes(RunFacts(**json.loads(known)), facts)
    store.remember(RUN_FACT, json.dumps(asdict(facts)))


def changes(before: RunFacts, now: RunFacts) -> Iterator[str]:
    """A warning for each change that a resumed run takes. Raises InvalidRequest for one that it cannot take."""
    if before.name != now.name:
        raise InvalidRequest(
            f"name: is {now.name!r}, but this run began as {before.name!r}, which its groups are known by; resume it "
            "under its own name, or begin another run"
        )
    if before.seed != now.seed:
        raise InvalidRequest(
            f"seed: is {now.seed}, but this run began with {before.seed}, which decides its tasks to the end; resume "
            "it without the change, or begin another run"
        )
    if before.group_size != now.group_size:
        yield (
            f"rollout.group_size: is {now.group_size} now, was {before.group_size}: groups that wait keep their size, "
            "new ones have the new size"
        )


def stored_facts(path: Path) -> RunFacts | None:
    """What a store file says of its run, without opening it for writing; None when it says nothing readable."""
    if not path.exists():
        return None
    with contextlib.suppress(sqlite3.Error, ValueError, TypeError):
        with contextlib.closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True)) as reader:
            row = reader.execute("SELECT value FROM facts WHERE key = ?", (RUN_FACT,)).fetchone()
        return None if row is None else RunFacts(**json.loads(row[0]))
    return None
