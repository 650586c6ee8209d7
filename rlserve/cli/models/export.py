"""``rlserve export``: a checkpoint as a directory for other programs, without what only a resume needs."""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlserve.actors.checkpoints import MANIFEST, Checkpoint, open_checkpoint
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.library.measure import model_of
from rlserve.models.adapter_files import (
    AdapterFiles,
    adapter_at,
    read_tensors,
    weights_digest,
    weights_directory,
)

if TYPE_CHECKING:
    from torch import Tensor

MODEL_ALONE = ("config.json", "generation_config.json")
"""Beside an adapter they would make others take it for a whole model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A whole model is what transformers and vLLM load; an adapter is in the form of peft, which vLLM reads as well."
    )
    parser.add_argument("model", help="a run directory (its newest checkpoint) or a checkpoint")
    parser.add_argument("out", type=Path, help="directory to make")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--merged", action="store_true", help="adapters merged into their model (the default)")
    form.add_argument("--adapter", action="store_true", help="the adapters alone")


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    if out.exists():
        raise InvalidRequest(f"out: {str(out)!r} exists already; give a new name")
    if not out.resolve().parent.is_dir():
        raise InvalidRequest(f"out: there is no directory {str(out.parent)!r}; make it first")
    source = Path(model_of(Path(arguments.model)))
    checkpoint = open_checkpoint(source) if (source / MANIFEST).exists() else None
    adapter = adapter_at(source)
    if arguments.adapter and adapter is None:
        raise InvalidRequest(f"--adapter: {str(source)!r} holds a whole model and no adapter; leave it out")
    # It gets its name when it is whole.
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        if adapter is None:
            _copy(source, partial, leave_out=(MANIFEST,))
        elif arguments.adapter:
            _copy(source, partial, leave_out=(MANIFEST, *MODEL_ALONE))
        else:
            _merge(adapter, checkpoint, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{'adapter' if arguments.adapter else 'model'} of {source} in {out}")
    return 0


def _copy(source: Path, target: Path, *, leave_out: tuple[str, ...]) -> None:
    for file in source.iterdir():
        if file.is_file() and file.name not in leave_out:
            shutil.copyfile(file, target / file.name)


def _merge(adapter: AdapterFiles, checkpoint: Checkpoint | None, target: Path) -> None:
    from rlserve.actors.learner.train.saving.model_files import read_companions, write_model

    if checkpoint is not None and weights_digest(adapter.base) != checkpoint.base_digest:
        raise StateCorrupt(
            f"{adapter.path}: its adapters belong to other weights than those of {adapter.base!r} now; put the model "
            "back with which the run began"
        )
    base = _weights(adapter.base)
    companions = read_companions(str(adapter.path))
    write_model(target, _merged(base, adapter), companions, next(iter(base.values())).dtype)


def _merged(base: "dict[str, Tensor]", adapter: AdapterFiles) -> "Iterator[tuple[str, Tensor]]":
    from rlserve.models.merge import merged

    done = set()
    for name, tensor in merged(base, read_tensors(adapter.path), adapter.scale):
        done.add(name)
        yield name, tensor
    yield from ((name, tensor) for name, tensor in base.items() if name not in done)


def _weights(base: str) -> "dict[str, Tensor]":
    """The tensors of the files of a model, which stay there until they are read."""
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for file in sorted(weights_directory(base).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    if not found:
        raise InvalidRequest(f"model: {base!r} has no weights in safetensors, into which the adapters could be merged")
    return found
