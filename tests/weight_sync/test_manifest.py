"""Manifests: equal digests exactly for equal weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.weight_sync.manifest import check, manifest_digest, spec_of


def version(*tensors: torch.Tensor) -> tuple[PolicyVersion, bytes]:
    pairs = [spec_of(f"t{i}", tensor) for i, tensor in enumerate(tensors)]
    specs = tuple(spec for spec, _ in pairs)
    flat = b"".join(content.tobytes() for _, content in pairs)
    return PolicyVersion(version=3, tensors=specs, digest=manifest_digest(specs)), flat


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_version_is_its_own_bytes_in_every_dtype(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 5).to(dtype)
    policy, flat = version(tensor, torch.zeros(2, dtype=dtype))
    check(policy, flat)
    assert policy.tensors[0].num_bytes == 15 * dtype.itemsize
    assert flat[: policy.tensors[0].num_bytes] == tensor.view(torch.uint8).numpy().tobytes()


def test_one_flipped_bit_is_found_and_its_tensor_named() -> None:
    policy, flat = version(torch.randn(4), torch.randn(4))
    damaged = bytearray(flat)
    damaged[20] ^= 1
    with pytest.raises(WeightsMismatch, match="'t1'"):
        check(policy, damaged)


def test_missing_bytes_and_a_doctored_manifest_are_found() -> None:
    policy, flat = version(torch.randn(4))
    with pytest.raises(WeightsMismatch, match="15 bytes"):
        check(policy, flat[:15])
    doctored = replace(policy, tensors=(replace(policy.tensors[0], name="other"),))
    with pytest.raises(WeightsMismatch, match="its own digest"):
        check(doctored, flat)


def test_name_shape_dtype_and_order_all_count() -> None:
    a, b = spec_of("a", torch.zeros(4))[0], spec_of("b", torch.zeros(4))[0]
    digests = {
        manifest_digest([a, b]),
        manifest_digest([b, a]),
        manifest_digest([a]),
        manifest_digest([replace(a, shape=(2, 2)), b]),
        manifest_digest([replace(a, dtype="bfloat16"), b]),
    }
    assert len(digests) == 5
    assert np.unique([a.digest, b.digest]).size == 1
