"""Saves and restores the training state: everything that a run needs to resume bit for bit.

Every rank copies its part into host memory and goes on training; a thread of its own writes the copies. When all ranks
have told rank 0 what they wrote, rank 0 seals the checkpoint and puts it in place: until then no reader sees it.

Trust: only safetensors and JSON are read, so a checkpoint from elsewhere can be wrong but runs no code (DeepSpeed's
own checkpoints are pickles, which do).
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial as bound
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import torch
from safetensors.torch import load_file

from rlserve.actors.checkpoints import REFERENCE, TRAINING, Checkpoint, by_falling_step, read_checkpoint, seal, sync
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.reference import BaseReference, Reference
from rlserve.actors.learner.train.saving.model_files import write_model, write_shards
from rlserve.actors.learner.train.saving.saved_parts import SavedParts
from rlserve.actors.learner.train.saving.shard_writer import Abandoned, Entry, ShardWriter
from rlserve.errors import ConfigError, StateCorrupt, Unavailable
from rlserve.models.adapter_files import write_adapter
from rlserve.models.adapters import target_names

logger = logging.getLogger(__name__)

RNG_FILE = "rng.safetensors"
OPTIMIZER_FILES = "optimizer*.safetensors"
POLL_SECONDS = 0.1
"""Between two looks at what the other ranks wrote; nothing compared with the write itself."""
BUFFER_BYTES = 8 * 2**30
"""Default of ``checkpoint.buffer_gib``."""
_numbers = count(1)


def restore(checkpoint: Checkpoint, engine: LearnerEngine) -> None:
    """Optimizer and random state into an engine made from ``checkpoint.model_path``; called on every rank.

    The ranks and the ZeRO stage may be others than those that wrote it: each rank reads what it now holds.
    """
    if checkpoint.base_digest and engine.rank_info.rank == 0 and engine.base_digest != checkpoint.base_digest:
        raise StateCorrupt(
            f"{checkpoint.path}: its adapters belong to other weights than those of {engine.base!r}; put the model "
            "back with which the run began"
        )
    saved = SavedParts(sorted(checkpoint.training_path.glob(OPTIMIZER_FILES)))
    engine.restore_optimizer(checkpoint.optimizer_steps, saved.read)
    states = load_file(checkpoint.training_path / RNG_FILE)["torch"]
    if engine.rank_info.rank < len(states):  # a resumed run may have more ranks
        torch.set_rng_state(states[engine.rank_info.rank].clone())  # torch 2.13 crashes on an unaligned row


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What rank 0 makes of a checkpoint once all parts of it are written."""

    directory: Path
    step: int
    state: Mapping[str, Any]
    keep: int = 2
    """All but the newest so many are deleted, ..."""
    best: int | None = None
    """... except that of this step. Those of later steps go too: they belong to a future that a resume gave up."""
    saved: Callable[[Checkpoint], object] = lambda _: None
    """Called in the training thread when the checkpoint is in place."""
    partial: Path = field(init=False)
    """Where the parts are written; made with the plan."""

    def __post_init__(self) -> None:
        # A name that ``by_falling_step`` does not match: no reader opens it before it is whole. A number, because a
        # process may save a step twice.
        name = f".step-{self.step}.{os.getpid()}-{next(_numbers)}.partial"
        object.__setattr__(self, "partial", self.directory / name)
        (self.partial / TRAINING).mkdir(parents=True)


class CheckpointWriter:
    """One rank's part of checkpoints, one at a time.

    Example, the second line on rank 0, the third on each other one, at the same time::

        saving = CheckpointWriter(engine, reference)
        saving.save(plan)                 # returns when the state is copied
        saving.contribute(plan.partial)
        ...                               # steps
        saving.check()                    # raises what went wrong, runs ``plan.saved`` when all is in place
        saving.wait()                     # the same, when the checkpoint under way is in place
    """

    def __init__(self, engine: LearnerEngine, reference: Reference | BaseReference | None = None) -> None:
        """``reference`` is kept when it is another model than the run's start."""
        self._engine = engine
        self._reference = reference
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[Checkpoint | None] | None = None
        self._saved: Callable[[Checkpoint], object] = lambda _: None
        self._given_up = Event()

    def save(
        self, plan: Plan, *, buffer_bytes: int = BUFFER_BYTES, beside: Callable[[Path], object] | None = None
    ) -> None:
        """Rank 0's part; the others ``contribute`` meanwhile. ``plan.partial`` exists.

        ``beside`` writes what else is to be kept into ``training/``, before this returns.
        """
        engine = self._engine
        content = {
            "step": plan.step,
            "state": dict(plan.state),
            "optimizer_steps": engine.optimizer_steps,
            "zero_stage": engine.config.zero_stage,
            "ranks": engine.rank_info.world_size,
            **({"base_digest": engine.base_digest} if engine.config.lora else {}),
        }
        with self._writing(plan.partial, buffer_bytes, bound(self._complete, plan, content)) as writer:
            self._copy(plan.partial, writer)
            if beside is not None:
                beside(plan.partial / TRAINING)
        self._saved = plan.saved

    def contribute(self, partial: Path, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        """The part of a rank other than 0."""
        with self._writing(partial, buffer_bytes, bound(self._tell, partial)) as writer:
            self._copy(partial, writer)

    def check(self) -> None:
        """Look whether the checkpoint under way is in place. Raises what went wrong."""
        if self._running is not None and self._running.done():
            done, self._running = self._running, None
            checkpoint = done.result()
            if checkpoint is not None:
                self._saved(checkpoint)

    def wait(self) -> None:
        """Return when no checkpoint is under way. Raises what went wrong."""
        if self._running is not None:
            # Not ``result``: ``check`` raises, and forgets.
            self._running.exception()
            self.check()

    def close(self, *, give_up: bool = False) -> None:
        """Let the checkpoint under way end, or ``give_up`` what other ranks no longer write."""
        if give_up:
            self._given_up.set()
        self._thread.shutdown(wait=True)

    @contextmanager
    def _writing(
        self, partial: Path, buffer_bytes: int, finish: Callable[[ShardWriter], Checkpoint | None]
    ) -> Iterator[ShardWriter]:
        self.wait()
        started = time.monotonic()
        writer = ShardWriter(partial, buffer_bytes=buffer_bytes)
        self._running = self._thread.submit(finish, writer)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            self._running = None
            raise
        writer.end()
        logger.debug("%s: training was held up for %.3f s", partial.name, time.monotonic() - started)

    def _copy(self, partial: Path, writer: ShardWriter) -> None:
        """Copy this rank's part. The collectives come in one order on all ranks: weights, reference, random states."""
        engine, training = self._engine, partial / TRAINING
        is_first = engine.rank_info.rank == 0
        models = {partial: engine.weights(engine.dtype)}
        if isinstance(self._reference, Reference) and not self._reference.is_start:
            models[partial / REFERENCE] = self._reference.weights(is_receiver=is_first)
        for directory, weights in models.items():
            if is_first and engine.config.lora is not None:
                # A directory by its whole path: the checkpoint may be read from anywhere.
                base = str(Path(engine.base).resolve()) if Path(engine.base).is_dir() else engine.base
                targets = target_names(engine.module)
                write_adapter(directory, weights, engine.companions, engine.config.lora, base=base, targets=targets)
            elif is_first:
                directory.mkdir(exist_ok=True)
                write_model(directory, weights, engine.companions, engine.dtype, writer.add)
            else:
                for _ in weights:
                    pass
        write_shards(training, f"optimizer-{engine.rank_info.rank:05d}", engine.optimizer_state(), writer.add)
        states = engine.rng_states()
        if is_first:
            writer.add(training / RNG_FILE, {"torch": states})

    def _complete(self, plan: Plan, content: Mapping[str, Any], writer: ShardWriter) -> Checkpoint:
        """In rank 0's thread: write, collect what the others wrote, seal, put in place."""
        started = time.monotonic()
        try:
            written = writer.drain()
            for rank in range(1, self._engine.rank_info.world_size):
                written |= self._told_by(rank, plan.partial)
            seal(plan.partial, content, written)
            path = _put_in_place(plan.partial, plan.directory / f"step-{plan.step}")
        except BaseException:
            shutil.rmtree(plan.partial, ignore_errors=True)
            raise
        # Last: until the new one is in place a crash must find the older ones.
        _prune(plan)
        logger.info("saved %s in %.1f s beside training", path, time.monotonic() - started)
        return read_checkpoint(path, content)

    def _tell(self, partial: Path, writer: ShardWriter) -> None:
        """In the thread of another rank: write, and tell rank 0 what."""
        links, name = self._engine.links, f"{partial.name}/{self._engine.rank_info.rank}"
        try:
            written = writer.drain(lambda files: links.tell(name, json.dumps({"files": files})))
        except Abandoned:
            raise
        except Exception as error:
            links.tell(name, json.dumps({"failure": f"{type(error).__name__}: {error}"}))
            raise
        links.tell(name, json.dumps({"written": written}))

    def _told_by(self, rank: int, partial: Path) -> Mapping[str, Entry]:
        """What another rank wrote. Raises Unavailable when it failed, or made no progress for the ranks' timeout."""
        links, limit = self._engine.links, self._engine.config.rank_timeout_seconds
        seen, moved = "", time.monotonic()
        while time.monotonic() - moved < limit:
            told = links.told(f"{partial.name}/{rank}")
            if told != seen:
                seen, moved = told, time.monotonic()
                found = json.loads(told)
                if failure := found.get("failure"):
                    raise Unavailable(f"learner rank {rank}: could not write its part of the checkpoint: {failure}")
                if "written" in found:
                    _check_shared(partial, found["written"], rank)
                    written: Mapping[str, Entry] = found["written"]
                    return written
            if self._given_up.wait(POLL_SECONDS):
                raise Unavailable(f"learner rank {rank}: is gone, and with it its part of the checkpoint")
        raise Unavailable(
            f"learner rank {rank}: wrote nothing of its part of the checkpoint for {limit:g} s "
            "(learner.rank_timeout_seconds)"
        )


def _check_shared(partial: Path, written: Mapping[str, Entry], rank: int) -> None:
    for name in written:
        if not (partial / name).is_file():
            raise ConfigError(
                f"learner.ranks: rank {rank} wrote {name}, which rank 0 does not find in {partial}: the run directory "
                "must be one that all ranks share"
            )


def _put_in_place(partial: Path, final: Path) -> Path:
    """Rename; a checkpoint of the same step stays readable beside it until the new one is there."""
    replaced = final.with_name(f"{final.name}.replaced")
    if final.exists():
        # A crash between the two renames leaves it, and a rename onto a full directory fails.
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    # Before the replaced one is deleted: only then is the rename on the disk.
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def _prune(plan: Plan) -> None:
    found = by_falling_step(plan.directory)
    current = [path for path, number in found if number <= plan.step]
    kept = f"step-{plan.best}"
    for path in [p for p, number in found if number > plan.step] + [p for p in current[plan.keep :] if p.name != kept]:
        # First out of sight, so that no reader finds half of it.
        doomed = path.rename(path.with_name(f".{path.name}.{os.getpid()}.partial"))
        shutil.rmtree(doomed)
    # Of processes that were killed while they wrote or deleted.
    for leftover in plan.directory.glob(".*.partial"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
