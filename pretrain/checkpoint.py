"""Ordinary Hugging Face checkpoint directories, written atomically."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rlserve.errors import ConfigError, InvalidRequest


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> Path:
    """Write model, tokenizer and generation settings to the new directory ``out``.

    They are written under a temporary name, synced and renamed; an interrupted call leaves no ``out``. Raises
    InvalidRequest if ``out`` exists.
    """
    require_free(out)
    # Engines and transformers read end tokens here; without it a completion would not end at <eos>.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
    )
    # Beside `out`, so that the rename stays within one file system and is atomic.
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed here
    try:
        with _no_progress_bar():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        # Files before their directory, and both before the rename: after a power cut ``out`` must not name empty files.
        for path in (*partial.iterdir(), partial):
            _sync(path)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync(out.parent)  # the rename itself
    return out


def load_checkpoint(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A float32 model and its tokenizer; no remote code is run. Raises ConfigError if they cannot be loaded."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        with _no_progress_bar():
            # float32: AdamW's steps at these learning rates vanish in the 8 bits of precision of bfloat16.
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)
    # transformers raises OSError for missing files and hub names, ValueError for architectures that it does not know.
    except (OSError, ValueError) as error:
        raise ConfigError(f"start: {str(path)!r} is not a loadable checkpoint: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"start: the tokenizer of {str(path)!r} has no end-of-sequence token; give it one")
    return model, tokenizer


def require_free(out: Path) -> None:
    """Raise InvalidRequest if ``out`` exists, because checkpoints are never overwritten."""
    if out.exists():
        raise InvalidRequest(f"out: {str(out)!r} exists; remove it or give another directory")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    # The switch is global in transformers: put it back as it was, for the user's own code in this process.
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
