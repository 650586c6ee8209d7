"""Checks from its files alone that a checkpoint directory is a complete causal language model that can be trained."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlserve.config.paths import RunPaths
from rlserve.launch.preflight.finding import Finding

POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForQuestionAnswering")
EXTENDING = ("linear", "dynamic", "yarn", "ntk")
"""Kinds of rotary scaling that multiply the positions by their factor."""
LFS = b"version https://git-lfs"
"""First bytes of a git-lfs pointer, left by a clone without git-lfs."""
STEMS = ("model", "pytorch_model", "consolidated", "adapter_model")
"""Beginnings of the names of files with weights."""
_STEP = re.compile(r"step-(\d+)")


def directory_of(path: str) -> Path | None:
    """The checkpoint directory that ``path`` names; None for a hub name.

    A run directory stands for its newest complete checkpoint.
    """
    given = Path(path).expanduser()
    if not given.exists():
        # A hub name has at most one slash (owner/name); with more it can only be a path.
        is_path = given.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1
        return given if is_path else None
    checkpoints = RunPaths(given).checkpoints
    steps = {int(m[1]): p for p in checkpoints.glob("step-*") if (m := _STEP.fullmatch(p.name))}
    # By number, not by name: step-100 comes after step-20.
    newest_first = [steps[step] for step in sorted(steps, reverse=True)]
    # A learner may be writing the newest checkpoint right now, or was killed while it did.
    whole = (path for path in newest_first if (path / "config.json").exists() and not list(_weight_problems(path)))
    return next(whole, newest_first[0] if newest_first else given)


def check_files(path: Path, key: str) -> Iterator[Finding]:
    """Faults that keep the directory ``path``, named under ``key``, from being loaded."""
    if not path.exists():
        yield Finding(f"{key}: there is no directory {str(path)!r}; give a checkpoint, a run, or a hub name")
        return
    if not path.is_dir():
        yield Finding(f"{key}: {str(path)!r} is a file; give the directory of a Hugging Face checkpoint")
        return
    config = read_config(path)
    if isinstance(config, str):
        yield Finding(f"{key}: {config}")
        return
    # Both: a quantised checkpoint may also lack files, and the user should see all faults at once.
    yield from _check_config(config, str(path), key)
    yield from (Finding(f"{key}: {problem}") for problem in _weight_problems(path))


def read_config(path: Path) -> Mapping[str, Any] | str:
    """``config.json`` of a checkpoint, or a message about its fault."""
    file = path / "config.json"
    if not file.exists():
        return _what_it_is(path)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{str(file)!r} cannot be read ({error}); copy the checkpoint again"
    return values if isinstance(values, dict) else f"{str(file)!r} is no JSON object; copy the checkpoint again"


def _what_it_is(path: Path) -> str:
    # These tell apart the directories that users give most often in place of a checkpoint.
    if (path / "adapter_config.json").exists():
        base = _base_of(path / "adapter_config.json")
        return (
            f"{str(path)!r} is a LoRA adapter{base}, not a model; merge it first (peft's merge_and_unload, then "
            "save_pretrained) and give the merged checkpoint"
        )
    if any(path.glob("*.gguf")):
        return f"{str(path)!r} holds GGUF files; give the original Hugging Face checkpoint"
    if RunPaths(path).config.exists():
        return f"{str(path)!r} is a run that has no checkpoint yet; wait for one, or give another model"
    return f"{str(path)!r} has no config.json; give the directory of a Hugging Face checkpoint"


def _base_of(file: Path) -> str:
    try:
        return f" of {json.loads(file.read_text(encoding='utf-8'))['base_model_name_or_path']!r}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _check_config(config: Mapping[str, Any], path: str, key: str) -> Iterator[Finding]:
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
        yield Finding(
            f"{key}: {path!r} is quantised ({method or 'see its config.json'}), and quantised weights cannot be "
            "trained; give the original, unquantised checkpoint"
        )
    if not config.get("model_type"):
        yield Finding(f"{key}: config.json of {path!r} names no model_type; give a Hugging Face checkpoint")
    heads = config.get("architectures") or ()
    if other := [head for head in heads if str(head).endswith(OTHER_HEADS)]:
        yield Finding(f"{key}: {path!r} is a {other[0]}, no causal language model; give one that writes text")


def positions_of(config: Mapping[str, Any]) -> int | None:
    """The longest context of the model, in tokens; None when its configuration has no such key."""
    # Configurations of multimodal models keep those of their language model in text_config.
    inner = config.get("text_config")
    values = {**(inner if isinstance(inner, Mapping) else {}), **config}
    said = (values.get(name) for name in POSITIONS)
    positions = next((int(value) for value in said if isinstance(value, int)), None)
    # transformers 5 writes rope_parameters, earlier versions rope_scaling; "type" is the old name of "rope_type".
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if positions is None or not isinstance(scaling, Mapping):
        return positions
    kind, factor = str(scaling.get("rope_type", scaling.get("type", ""))), scaling.get("factor")
    if kind in EXTENDING and isinstance(factor, int | float):
        base = scaling.get("original_max_position_embeddings") or positions
        # The larger one: many checkpoints with scaled positions have a max_position_embeddings that is scaled already.
        return max(positions, int(base * factor))
    return positions


def head_size_of(config: Mapping[str, Any]) -> int | None:
    """Size of an attention head; None when its configuration does not say it."""
    inner = config.get("text_config")
    values = {**(inner if isinstance(inner, Mapping) else {}), **config}
    size, width, heads = (values.get(name) for name in ("head_dim", "hidden_size", "num_attention_heads"))
    # Latent attention has no heads of one size.
    if "kv_lora_rank" in values or isinstance(size, int):
        return size if isinstance(size, int) else None
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None


def _weight_problems(path: Path) -> Iterator[str]:
    indexes = sorted(path.glob("*.index.json"))
    files = {file.name: file for pattern in ("*.safetensors", "*.bin") for file in path.glob(pattern)}
    # By name too: trainers leave other .bin files, such as training_args.bin, beside the weights.
    weights = {n: f for n, f in files.items() if n.startswith(STEMS)}
    for index in indexes:
        try:
            listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield f"{str(index)!r} is no index of weights; copy the checkpoint again"
            continue
        # An interrupted download leaves an index that names more files than there are.
        if lacking := sorted(listed - set(files)):
            yield f"{str(path)!r} lacks {lacking[0]} ({len(lacking)} of {len(listed)} files of weights); copy it again"
    if not (weights or indexes):
        yield f"{str(path)!r} has no weights (model.safetensors); copy the checkpoint again"
    for file in weights.values():
        if problem := _file_problem(file):
            yield f"{str(file)!r} {problem}"


def _file_problem(file: Path) -> str:
    """The fault of one file of weights, from its header and its size; empty without one."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as opened:
            head = opened.read(len(LFS))
            if head == LFS:
                return "is a pointer of git-lfs, not weights; run `git lfs pull` in its repository"
            if file.suffix != ".safetensors":
                return "" if size else "is empty; copy the checkpoint again"
            opened.seek(0)
            # The safetensors format: 8 bytes with the length of the header, the header as JSON, then the tensors'
            # bytes. The shortest header is {}.
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= size - 8:
                return "is broken: no safetensors file begins so; copy the checkpoint again"
            header = json.loads(opened.read(length))
        ends = [int(t["data_offsets"][1]) for name, t in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"is broken ({type(error).__name__} in its header); copy the checkpoint again"
    # data_offsets count from the end of the header.
    expected = 8 + length + max(ends, default=0)
    return "" if size == expected else f"is cut: it has {size} bytes of {expected}; copy the checkpoint again"
