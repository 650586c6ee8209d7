"""Writes a model as a Hugging Face directory: safetensors shards, configuration and tokenizer."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2 * 2**30
"""Size of a safetensors shard: bounds the memory that writing a checkpoint takes."""
COMPANION_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt")
# They describe the weight files beside which they lie, which are not those that ``write_model`` writes.
NOT_COMPANIONS = (
    "manifest.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
)


def read_companions(model_path: str) -> dict[str, bytes]:
    """Content of the configuration and tokenizer files of a checkpoint directory or hub name, by file name."""
    directory = Path(model_path)
    if not directory.is_dir():
        from huggingface_hub import snapshot_download

        directory = Path(snapshot_download(model_path, allow_patterns=[f"*{s}" for s in COMPANION_SUFFIXES]))
    found = (p for p in sorted(directory.iterdir()) if p.suffix in COMPANION_SUFFIXES and p.is_file())
    return {path.name: path.read_bytes() for path in found if path.name not in NOT_COMPANIONS}


def write_model(
    directory: Path, weights: Iterable[tuple[str, Tensor]], companions: Mapping[str, bytes], dtype: torch.dtype
) -> None:
    """Write a model directory that transformers and vLLM load; ``config.json`` names the ``dtype`` of the weights."""
    for name, content in companions.items():
        (directory / name).write_bytes(_with_dtype(content, dtype) if name == "config.json" else content)
    index = write_shards(directory, "model", weights)
    files = sorted(set(index.values()))
    if len(files) == 1:
        # the name that loaders look for first; then they need no index
        (directory / files[0]).rename(directory / "model.safetensors")
        return
    described = {"metadata": {"total_size": sum((directory / f).stat().st_size for f in files)}, "weight_map": index}
    (directory / "model.safetensors.index.json").write_text(json.dumps(described, indent=1))


def write_shards(directory: Path, stem: str, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Write ``<stem>-00001.safetensors`` and on, each of at most SHARD_BYTES or one tensor; returns file by tensor."""
    index: dict[str, str] = {}
    for number, shard in enumerate(_shards(tensors), 1):
        file = f"{stem}-{number:05d}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})  # the framework, which transformers checks
        index.update(dict.fromkeys(shard, file))
    return index


def _shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        # Before the tensor is added, so that a shard exceeds the limit only when it holds a single tensor.
        if shard and held + size > SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[name] = tensor
        held += size
    if shard:
        yield shard


def _with_dtype(config: bytes, dtype: torch.dtype) -> bytes:
    fields: dict[str, Any] = json.loads(config)
    fields.pop("torch_dtype", None)  # the older name: both at once would contradict each other
    fields["dtype"] = str(dtype).removeprefix("torch.")
    return json.dumps(fields, indent=2, sort_keys=True).encode()
