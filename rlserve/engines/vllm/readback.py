"""Weights in the form in which they are published: read from their flat file, and read back from the model.

The flat file holds all tensors' little-endian bytes, in the manifest's order.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.engines.vllm.in_place_swap import Change
from rlserve.engines.vllm.layout import Layout, UnknownLayout, disassemble, layout_of
from rlserve.errors import WeightsMismatch
from rlserve.models.merge import merged
from rlserve.records import PolicyVersion, TensorSpec
from rlserve.weight_sync.checksum import checksums
from rlserve.weight_sync.manifest import Bytes, check, manifest_digest, slices, spec_with
from rlserve.weight_sync.mapped_file import reading

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@contextlib.contextmanager
def checked(policy: PolicyVersion, path: Path, *, digests: bool = True) -> Iterator[Bytes]:
    """The version's bytes, mapped from the file and valid inside the block.

    Raises WeightsMismatch unless file and manifest agree; without ``digests``, the caller has to compare those.
    """
    with contextlib.ExitStack() as stack:
        try:
            flat = stack.enter_context(reading(path))
        except OSError as error:  # deleted, written again, or unreadable here; a copy over the stream may still work
            raise WeightsMismatch(f"weights of version {policy.version}: {path} cannot be read ({error})") from error
        check(policy, flat, digests=digests)
        yield flat


def tensors_in(policy: PolicyVersion, flat: Bytes) -> dict[str, Tensor]:
    """The tensors by name, as views of the bytes."""
    return {
        spec.name: torch.from_numpy(flat[place]).view(DTYPES[spec.dtype]).reshape(spec.shape)
        for spec, place in slices(policy.tensors)
    }


def read_checked(policy: PolicyVersion, path: Path) -> dict[str, Tensor]:
    """Copies of the tensors by name. Raises WeightsMismatch, see ``checked``."""
    with checked(policy, path) as flat:
        return tensors_in(policy, flat.copy())


@dataclass(frozen=True, slots=True, eq=False)
class Merging:
    """Makes whole weights of versions that are published as LoRA adapters.

    The checkpoint is kept (a file in memory, unless the engine computes in another precision), and each version begins
    from it: after any number of versions a weight is its base plus one adapter, to the bit. Example::

        tensors, whole = Merging(checkpoint, scale=2.0).version(policy, flat)
    """

    base: Mapping[str, Tensor]
    """By checkpoint name, in the precision in which the engine computes."""
    scale: float

    def version(self, policy: PolicyVersion, flat: Bytes) -> tuple[dict[str, Tensor], PolicyVersion]:
        """All weights of a version, and the manifest of those that differ from the base.

        Raises WeightsMismatch when the adapters do not fit the model.
        """
        changed = dict(merged(self.base, tensors_in(policy, flat), self.scale))
        sums = checksums(list(changed.values()))
        specs = tuple(spec_with(name, t, found) for (name, t), found in zip(changed.items(), sums, strict=True))
        return {**self.base, **changed}, replace(policy, tensors=specs, digest=manifest_digest(specs))


def digest_of(specs: tuple[TensorSpec, ...], tensors: Mapping[str, Tensor]) -> str:
    """Digest of the version that these tensors make in the order of ``specs``."""
    sums = checksums([tensors[spec.name] for spec in specs])
    return manifest_digest(
        [spec_with(spec.name, tensors[spec.name], found) for spec, found in zip(specs, sums, strict=True)]
    )


def check_tensors(policy: PolicyVersion, tensors: Mapping[str, Tensor]) -> None:
    """Raises WeightsMismatch with the first tensor that differs; computed on the tensors' device."""
    found = checksums([tensors[spec.name] for spec in policy.tensors])
    for spec, digest in zip(policy.tensors, found, strict=True):
        if digest != spec.digest:
            raise WeightsMismatch(f"version {policy.version}: tensor {spec.name!r} differs from what was published")


def policy_from_wire(wire: Mapping[str, Any]) -> PolicyVersion:
    """A manifest from plain values, the inverse of ``dataclasses.asdict``."""
    tensors = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in wire["tensors"])
    return PolicyVersion(**{**wire, "tensors": tensors})


def served_tensors(
    model: nn.Module, specs: Sequence[TensorSpec], given: Mapping[str, Tensor], changes: Sequence[Change]
) -> dict[str, Tensor]:
    """The tensors of ``specs`` by name, read back from the model wherever it keeps them readable.

    Where the model computes with a packed copy, the tensors it was packed from, after checking that this copy is the
    one in use. Where the layout is unknown, ``given``: the tensors that vLLM's loader received. Raises WeightsMismatch.
    """
    found = dict(given)
    shapes = {name: tuple(t.shape) for name, t in given.items()} | {spec.name: spec.shape for spec in specs}
    with contextlib.suppress(UnknownLayout):
        found |= _read(layout_of(model), shapes, _packed(changes))
    # vLLM may keep a bias in higher precision than it was published in.
    return {spec.name: found[spec.name].to(DTYPES[spec.dtype]) for spec in specs}


def _read(
    layout: Layout, shapes: Mapping[str, tuple[int, ...]], packed: Mapping[tuple[int, str], Tensor]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for slot in layout.slots:
        whole = packed.get((id(slot.module), slot.attribute)) if slot.is_packed else slot.parameter.data
        if whole is not None:
            found |= dict(disassemble(slot, whole, shapes))
    return found | {alias: found[name] for alias, name in layout.aliases.items() if alias in shapes}


def _packed(changes: Sequence[Change]) -> dict[tuple[int, str], Tensor]:
    for change in changes:
        if change.kernel is not None and change.module.cpu_linear is not change.kernel:
            raise WeightsMismatch(f"{type(change.module).__name__}: computes with weights other than the staged ones")
    return {(id(c.module), name): tensor for c in changes for name, tensor in c.parameters.items()}
