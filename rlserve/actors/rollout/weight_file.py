"""A version of the weights as one flat file: all tensors' little-endian bytes, in the manifest's order."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlserve.errors import WeightsMismatch
from rlserve.policy.manifest import check, manifest_digest, slices, spec_of
from rlserve.records import PolicyVersion, TensorSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_checked(policy: PolicyVersion, path: Path) -> dict[str, Tensor]:
    """The tensors by name, every digest checked. Raises WeightsMismatch unless file and manifest agree in full."""
    try:
        flat = np.fromfile(path, dtype=np.uint8)
    except OSError as error:  # gone or closed to this process: a copy that comes another way may do
        raise WeightsMismatch(f"weights of version {policy.version}: {path} cannot be read ({error})") from error
    check(policy, flat)
    return {
        spec.name: torch.from_numpy(flat[place]).view(DTYPES[spec.dtype]).reshape(spec.shape)
        for spec, place in slices(policy.tensors)
    }


def digest_of(specs: tuple[TensorSpec, ...], tensors: Mapping[str, Tensor]) -> str:
    """Digest of the whole, if these tensors were published in the order of ``specs``."""
    return manifest_digest([spec_of(spec.name, tensors[spec.name].cpu().contiguous())[0] for spec in specs])


def policy_to_wire(policy: PolicyVersion) -> dict[str, Any]:
    """A manifest as plain values, for the boundary between vLLM's processes."""
    return dataclasses.asdict(policy)


def policy_from_wire(wire: Mapping[str, Any]) -> PolicyVersion:
    """The inverse of ``policy_to_wire``."""
    tensors = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in wire["tensors"])
    return PolicyVersion(**{**wire, "tensors": tensors})
