"""Checkpoints: everything that a run needs to go on bit for bit.

``step-<n>/`` is a Hugging Face model directory, with the rest of the training state in ``training/``. It appears
whole or not at all. Trust: only safetensors and JSON are read, so a checkpoint from elsewhere can be wrong but runs
no code (DeepSpeed's own checkpoints are pickles, which do). Memory on rank 0 is bounded by a shard, not the model.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlserve.actors.learner import manifest, weights
from rlserve.actors.learner.engine import LearnerEngine
from rlserve.actors.learner.model_files import write_model, write_shards
from rlserve.actors.learner.reference import Reference
from rlserve.errors import StateCorrupt

logger = logging.getLogger(__name__)

TRAINING = "training"
RNG_FILE = "rng.safetensors"
STORE_FILE = "groups.sqlite"
REFERENCE = "reference"
_NAME = re.compile(r"step-(\d+)(\.replaced)?")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    state: Mapping[str, Any]
    """What the loop gave to ``save``."""
    optimizer_steps: int
    """Updates that the optimizer made."""
    optimizer_files: Mapping[str, str]
    """File under ``training/`` by tensor name."""

    @property
    def model_path(self) -> Path:
        """A directory that transformers and vLLM load."""
        return self.path

    @property
    def reference_path(self) -> Path | None:
        """The reference model, when it is another than the run's start."""
        path = self.path / REFERENCE
        return path if path.is_dir() else None

    @property
    def store_path(self) -> Path:
        """The copy of the run's store that was made with it."""
        return self.path / TRAINING / STORE_FILE

    def restore(self, engine: LearnerEngine) -> None:
        """Optimizer and random state into an engine made from ``model_path``; called on every rank."""
        engine.restore_optimizer(self.optimizer_steps, self._read)
        states = load_file(self.path / TRAINING / RNG_FILE)["torch"]
        if engine.rank_info.rank < len(states):  # a resumed run may have more ranks
            torch.set_rng_state(states[engine.rank_info.rank].clone())  # torch 2.13 crashes on an unaligned row

    def _read(self, name: str) -> Tensor:
        tensor: Tensor = self._open[self.optimizer_files[name]].get_tensor(name)
        return tensor

    @cached_property
    def _open(self) -> dict[str, Any]:
        files = sorted(set(self.optimizer_files.values()))
        return {f: safe_open(self.path / TRAINING / f, framework="pt") for f in files}


def save(
    directory: Path,
    step: int,
    engine: LearnerEngine,
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    reference: Reference | None = None,
    beside: Callable[[Path], object] | None = None,
) -> Checkpoint:
    """Write ``step-<step>`` and drop all but the newest ``keep``. Rank 0; the others ``contribute`` meanwhile.

    ``reference`` is kept when it is another model than the run's start. ``beside`` writes what else is to be kept
    into ``training/``, before the checkpoint is sealed. Checkpoints of later steps belong to a
    future that was given up, and go too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".step-{step}.{os.getpid()}.partial"
    training = partial / TRAINING
    training.mkdir(parents=True)
    write_model(partial, engine.weights(engine.dtype), engine.companions, engine.dtype)
    if reference is not None and not reference.is_start:
        (partial / REFERENCE).mkdir()
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
    }
    manifest.seal(partial, content)
    path = _put_in_place(partial, directory / f"step-{step}")
    _prune(directory, step, keep)
    return _opened(path, content)


def contribute(engine: LearnerEngine) -> None:
    """The part of a rank other than 0 in ``save``."""
    for _ in engine.weights(engine.dtype):
        pass
    for _ in engine.optimizer_state():
        pass
    engine.rng_states()


def latest(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint under ``directory``, None where there is none of any kind.

    Broken ones are named in a warning and passed over. Raises StateCorrupt that names them when all are.
    """
    broken = []
    for path, _ in _found(directory):
        try:
            return open_checkpoint(path)
        except StateCorrupt as error:
            logger.warning("checkpoint %s is passed over: %s", path.name, error)
            broken.append(f"{path.name} ({error})")
    if broken:
        raise StateCorrupt(
            f"checkpoints: none is whole: {'; '.join(broken)}. Put one back from a copy of {directory}, or start the "
            "run anew with --overwrite"
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at ``path``. Raises StateCorrupt if it is not whole."""
    return _opened(path, manifest.check(path))


def _opened(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    try:
        return Checkpoint(
            path=path,
            step=int(content["step"]),
            state=content["state"],
            optimizer_steps=int(content["optimizer_steps"]),
            optimizer_files=content["optimizer_files"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateCorrupt(f"{path / manifest.NAME}: lacks {error}") from error


def _found(directory: Path) -> list[tuple[Path, int]]:
    """Checkpoints by falling step, whole or not."""
    if not directory.is_dir():
        return []
    named = ((path, _NAME.fullmatch(path.name)) for path in directory.iterdir() if path.is_dir())
    steps = [(path, int(match[1])) for path, match in named if match]
    return sorted(steps, key=lambda found: (-found[1], found[0].name))


def _put_in_place(partial: Path, final: Path) -> Path:
    """Rename; a checkpoint of the same step stays readable beside it until the new one is there."""
    replaced = final.with_name(f"{final.name}.replaced")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    manifest.sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def _prune(directory: Path, step: int, keep: int) -> None:
    found = _found(directory)
    current = [path for path, number in found if number <= step]
    for path in [p for p, number in found if number > step] + current[keep:]:
        # First out of sight, so that nobody finds half of it.
        doomed = path.rename(path.with_name(f".{path.name}.{os.getpid()}.partial"))
        shutil.rmtree(doomed)
    for leftover in directory.glob(".*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
