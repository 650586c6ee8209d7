"""Saves and restores the training state: everything that a run needs to resume bit for bit.

Trust: only safetensors and JSON are read, so a checkpoint from elsewhere can be wrong but runs no code (DeepSpeed's
own checkpoints are pickles, which do). Memory on rank 0 is bounded by a shard, not the model.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlserve.actors.checkpoints import REFERENCE, TRAINING, Checkpoint, by_falling_step, read_checkpoint, seal, sync
from rlserve.actors.learner.train import gather as weights
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.model_files import write_model, write_shards
from rlserve.actors.learner.train.reference import Reference
from rlserve.errors import StateCorrupt
from rlserve.models.adapter_files import write_adapter
from rlserve.models.adapters import target_names

RNG_FILE = "rng.safetensors"


def restore(checkpoint: Checkpoint, engine: LearnerEngine) -> None:
    """Optimizer and random state into an engine made from ``checkpoint.model_path``; called on every rank."""
    files = checkpoint.optimizer_files
    opened: dict[str, Any] = {
        file: safe_open(checkpoint.training_path / file, framework="pt") for file in sorted(set(files.values()))
    }

    def read(name: str) -> Tensor:
        tensor: Tensor = opened[files[name]].get_tensor(name)
        return tensor

    if checkpoint.base_digest and engine.rank_info.rank == 0 and engine.base_digest != checkpoint.base_digest:
        raise StateCorrupt(
            f"{checkpoint.path}: its adapters belong to other weights than those of {engine.base!r}; put the model "
            "back with which the run began"
        )
    engine.restore_optimizer(checkpoint.optimizer_steps, read)
    states = load_file(checkpoint.training_path / RNG_FILE)["torch"]
    if engine.rank_info.rank < len(states):  # a resumed run may have more ranks
        torch.set_rng_state(states[engine.rank_info.rank].clone())  # torch 2.13 crashes on an unaligned row


def save(
    directory: Path,
    step: int,
    engine: LearnerEngine,
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    best: int | None = None,
    reference: Reference | None = None,
    beside: Callable[[Path], object] | None = None,
) -> Checkpoint:
    """Write ``step-<step>`` and drop all but the newest ``keep`` and that of step ``best``.

    Rank 0 calls it; the others ``contribute`` meanwhile.

    ``reference`` is kept when it is another model than the run's start. ``beside`` writes what else is to be kept
    into ``training/``, before the checkpoint is sealed. Checkpoints of later steps belong to a
    future that a resume gave up, and go too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # A name that ``by_falling_step`` does not match: no reader opens it before it is whole.
    partial = directory / f".step-{step}.{os.getpid()}.partial"
    training = partial / TRAINING
    training.mkdir(parents=True)
    # The collectives come in the order of ``contribute``: weights, optimizer, random states.
    _write_policy(partial, engine)
    if reference is not None and not reference.is_start:
        (partial / REFERENCE).mkdir()
        # No collective: every rank holds the whole reference, so rank 0 writes its own.
        kept = weights.gather(reference.module, engine.dtype, is_receiver=True)
        write_model(partial / REFERENCE, kept, engine.companions, engine.dtype)
    files = write_shards(training, "optimizer", engine.optimizer_state())
    save_file({"torch": engine.rng_states()}, training / RNG_FILE)
    if beside is not None:
        beside(training)
    content = {
        "step": step,
        "state": dict(state),
        "optimizer_steps": engine.optimizer_steps,
        "optimizer_files": files,
        "zero_stage": engine.config.zero_stage,
        "ranks": engine.rank_info.world_size,
        **({"base_digest": engine.base_digest} if engine.config.lora else {}),
    }
    seal(partial, content)
    path = _put_in_place(partial, directory / f"step-{step}")
    # Last: until the new one is in place a crash must find the older ones.
    _prune(directory, step, keep, best)
    return read_checkpoint(path, content)


def _write_policy(directory: Path, engine: LearnerEngine) -> None:
    tensors = engine.weights(engine.dtype)
    if engine.config.lora is None:
        return write_model(directory, tensors, engine.companions, engine.dtype)
    # A directory by its whole path: the checkpoint may be read from anywhere.
    base = str(Path(engine.base).resolve()) if Path(engine.base).is_dir() else engine.base
    targets = target_names(engine.module)
    return write_adapter(directory, tensors, engine.companions, engine.config.lora, base=base, targets=targets)


def contribute(engine: LearnerEngine) -> None:
    """The part of a rank other than 0 in ``save``."""
    for _ in engine.weights(engine.dtype):
        pass
    for _ in engine.optimizer_state():
        pass
    engine.rng_states()


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


def _prune(directory: Path, step: int, keep: int, best: int | None) -> None:
    found = by_falling_step(directory)
    current = [path for path, number in found if number <= step]
    for path in [p for p, number in found if number > step] + [p for p in current[keep:] if p.name != f"step-{best}"]:
        # First out of sight, so that no reader finds half of it.
        doomed = path.rename(path.with_name(f".{path.name}.{os.getpid()}.partial"))
        shutil.rmtree(doomed)
    # Of processes that were killed while they wrote or deleted.
    for leftover in directory.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
