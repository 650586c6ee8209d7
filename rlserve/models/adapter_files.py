"""A LoRA adapter on disk, in peft's form: its tensors, settings, and the model that it belongs to. Imports no torch."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlserve.config.tables.learner import LoraConfig
from rlserve.errors import StateCorrupt

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
"""Of the names of tensors in peft's files."""
SETTINGS = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
WEIGHTS = ("*.safetensors", "*.bin")
DIGEST_BYTES = 16
"""128 bits: no two models have one by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter's directory."""

    path: Path
    base: str
    """Directory or hub name of the model that it adapts."""
    rank: int
    alpha: int
    targets: tuple[str, ...]
    """Last parts of the names of its layers."""

    @property
    def scale(self) -> float:
        """Factor of the products B A."""
        return self.alpha / self.rank


def adapter_at(path: str | Path) -> AdapterFiles | None:
    """The adapter in a directory; None where there is none. Raises StateCorrupt when its settings cannot be read."""
    file = Path(path) / SETTINGS
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        targets = values["target_modules"]
        return AdapterFiles(
            path=Path(path),
            base=str(values["base_model_name_or_path"]),
            rank=int(values["r"]),
            alpha=int(values["lora_alpha"]),
            targets=(targets,) if isinstance(targets, str) else tuple(sorted(targets)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(
            f"{file}: cannot be read ({type(error).__name__}: {error}); copy the adapter again"
        ) from error


def base_of(path: str) -> str:
    """The model that a path stands for: the base of an adapter, or itself."""
    adapter = adapter_at(path)
    return adapter.base if adapter else path


def read_tensors(path: str | Path) -> "dict[str, Tensor]":
    """The tensors of an adapter by name."""
    from safetensors.torch import load_file

    return load_file(Path(path) / TENSORS)


def weights_directory(path: str) -> Path:
    """Where the weight files of a model are: a directory, or that of a hub name in the cache."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=list(WEIGHTS), local_files_only=True))


def weights_digest(path: str) -> str:
    """Digest of a model's weight files; reads all of them."""
    from blake3 import blake3

    directory, whole = weights_directory(path), blake3()
    for file in sorted(file for pattern in WEIGHTS for file in directory.glob(pattern)):
        content = blake3(max_threads=blake3.AUTO).update_mmap(file)
        whole.update(f"{file.name} {content.hexdigest()}\n".encode())
    return str(whole.hexdigest(length=DIGEST_BYTES))


def write_adapter(
    directory: Path,
    tensors: "Iterable[tuple[str, Tensor]]",
    companions: Mapping[str, bytes],
    config: LoraConfig,
    *,
    base: str,
    targets: Iterable[str],
) -> None:
    """Write an adapter that peft and vLLM load; ``companions``: configuration and tokenizer of its base."""
    from safetensors.torch import save_file

    for name, content in companions.items():
        (directory / name).write_bytes(content)
    save_file(dict(tensors), directory / TENSORS, metadata={"format": "pt"})
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "inference_mode": True,
    }
    (directory / SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")
