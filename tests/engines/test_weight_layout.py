"""Checkpoint tensors into the parameters of a running model and back; flat files against their manifests."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rlserve.engines.vllm.layout import Slot, UnknownLayout, assemble, disassemble
from rlserve.engines.vllm.readback import digest_of, policy_from_wire, read_checked
from rlserve.errors import WeightsMismatch
from tests.support.models.tiny_policies import publish


def slot(*names: str, shape: tuple[int, ...]) -> Slot:
    return Slot(nn.Module(), "weight", names, shape)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3), st.sampled_from([(), (3,)]))
def test_taking_a_parameter_apart_undoes_putting_it_together(rows: list[int], padding: int, rest: tuple[int]) -> None:
    tensors = {f"part{i}": torch.randn(n, *rest) for i, n in enumerate(rows)}
    whole_slot = slot(*tensors, shape=(sum(rows) + padding, *rest))
    whole = assemble(whole_slot, tensors)
    assert whole.shape == whole_slot.shape
    assert not whole[sum(rows) :].any()
    parts = dict(disassemble(whole_slot, whole, {name: tuple(t.shape) for name, t in tensors.items()}))
    assert all(torch.equal(parts[name], tensor) for name, tensor in tensors.items())


def test_a_parameter_shares_no_memory_with_what_it_was_made_of() -> None:
    tensors = {"part": torch.zeros(2, 2)}
    whole = assemble(slot("part", shape=(2, 2)), tensors)
    tensors["part"].fill_(1.0)
    assert not whole.any()


@pytest.mark.parametrize(
    "tensors", [{}, {"part": torch.zeros(3, 2)}, {"part": torch.zeros(2, 3)}], ids=["missing", "long", "wide"]
)
def test_tensors_that_do_not_make_the_parameter_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(UnknownLayout, match="part"):
        assemble(slot("part", shape=(2, 2)), tensors)


def test_a_flat_file_gives_the_tensors_that_were_published_and_their_digest(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3), "b": torch.randn(2, 3).bfloat16(), "c": torch.randn(5).half()}
    policy = publish(weights, 3, tmp_path / "flat")
    assert policy_from_wire(asdict(policy)) == policy
    found = read_checked(policy, tmp_path / "flat")
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in weights.items()
    )
    assert digest_of(policy.tensors, found) == policy.digest
    found["b"][1, 1] += 1
    assert digest_of(policy.tensors, found) != policy.digest


@given(st.data())
def test_no_single_wrong_byte_passes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("flat") / "flat"
    policy = publish({"a": torch.arange(4.0), "b": torch.arange(6.0).bfloat16()}, 1, path)
    content = np.fromfile(path, dtype=np.uint8)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content.tobytes())
    with pytest.raises(WeightsMismatch, match="version 1"):
        read_checked(policy, path)
