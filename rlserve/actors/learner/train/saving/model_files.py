"""Writes a model as a Hugging Face directory: safetensors shards, configuration and tokenizer."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2**30
"""Size of a safetensors shard: few files, and several fit into the memory that copies may take."""
Write = Callable[[Path, Mapping[str, Tensor]], object]
"""Takes one file's tensors."""
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


def save_at_once(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file in this thread."""
    save_file(dict(tensors), path, metadata={"format": "pt"})  # the framework, which transformers checks


def write_model(
    directory: Path,
    weights: Iterable[tuple[str, Tensor]],
    companions: Mapping[str, bytes],
    dtype: torch.dtype,
    write: Write = save_at_once,
) -> None:
    """Write a model directory that transformers and vLLM load; ``config.json`` names the ``dtype`` of the weights."""
    for name, content in companions.items():
        (directory / name).write_bytes(_with_dtype(content, dtype) if name == "config.json" else content)
    sizes: dict[str, int] = {}

    def counted() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            sizes[name] = tensor.nbytes
            yield name, tensor

    index = write_shards(directory, "model", counted(), write)
    # A single file has the name that loaders look for first; then they need no index.
    if len(set(index.values())) > 1:
        described = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
        (directory / "model.safetensors.index.json").write_text(json.dumps(described, indent=1))


def write_shards(directory: Path, stem: str, tensors: Iterable[tuple[str, Tensor]], write: Write) -> dict[str, str]:
    """Give ``write`` shards of at most SHARD_BYTES or one tensor; returns file by tensor.

    One alone is ``<stem>.safetensors``, several are ``<stem>-00001.safetensors`` and on.
    """
    index: dict[str, str] = {}
    for number, (shard, is_last) in enumerate(_shards(tensors), 1):
        file = f"{stem}.safetensors" if is_last and number == 1 else f"{stem}-{number:05d}.safetensors"
        index.update(dict.fromkeys(shard, file))
        write(directory / file, shard)
    return index


def _shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[dict[str, Tensor], bool]]:
    """(tensors, whether no more come)."""
    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        # Before the tensor is added, so that a shard exceeds the limit only when it holds a single tensor.
        if shard and held + tensor.nbytes > SHARD_BYTES:
            yield shard, False
            shard, held = {}, 0
        shard[name] = tensor
        held += tensor.nbytes
    if shard:
        yield shard, True


def _with_dtype(config: bytes, dtype: torch.dtype) -> bytes:
    fields: dict[str, Any] = json.loads(config)
    fields.pop("torch_dtype", None)  # the older name: both at once would contradict each other
    fields["dtype"] = str(dtype).removeprefix("torch.")
    return json.dumps(fields, indent=2, sort_keys=True).encode()
