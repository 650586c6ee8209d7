"""Checks ``[learner.lora]`` against a checkpoint directory, from its files alone."""

from collections.abc import Iterator
from pathlib import Path

from rlserve.config.tables.learner import LoraConfig
from rlserve.launch.preflight.checkpoint import check_files
from rlserve.launch.preflight.finding import Finding
from rlserve.models.adapter_files import AdapterFiles, adapter_at
from rlserve.nearest import known_names


def check_adapters(directory: Path, *, key: str, lora: LoraConfig | None) -> Iterator[Finding]:
    """Faults of the directory named under ``key``, in which ``lora`` is trained, or no adapter where it is None."""
    adapter = adapter_at(directory)
    if adapter is not None and lora is None:
        yield Finding(
            f"{key}: {str(directory)!r} is a LoRA adapter of {adapter.base!r}; add [learner.lora] to go on with it, or "
            "make a whole model of it by rlserve export"
        )
    if lora is None:
        return
    base = directory
    if adapter is not None:
        yield from _check_same(adapter, lora)
        base = Path(adapter.base)
        # A hub name was there when the adapter was made, and is looked up by the learner.
        if base.is_absolute() and (faults := list(check_files(base, f"{key} (base of the adapter)"))):
            yield from faults
            return
    yield from _check_targets(base, lora)


def _check_same(adapter: AdapterFiles, lora: LoraConfig) -> Iterator[Finding]:
    for name, asked, has in (("rank", lora.rank, adapter.rank), ("alpha", lora.alpha, adapter.alpha)):
        if asked != has:
            where = f"the adapter {str(adapter.path)!r}"
            yield Finding(f"learner.lora.{name}: is {asked:g}, but {where} has {has:g}; set that")


def _check_targets(base: Path, lora: LoraConfig) -> Iterator[Finding]:
    if lora.target_modules == "all-linear":
        return
    layers = set(_matrices(base))
    for name in lora.target_modules if layers else ():
        if name not in layers:
            known = known_names(name, layers)
            yield Finding(f"learner.lora.target_modules: {name!r} is no layer of {str(base)!r}{known}")


def _matrices(directory: Path) -> Iterator[str]:
    """Last parts of the names of all weights with two dimensions; none where they are not safetensors."""
    from safetensors import safe_open

    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                layer, _, kind = name.rpartition(".")
                if kind == "weight" and len(opened.get_slice(name).get_shape()) == 2:
                    yield layer.rpartition(".")[2]
