"""The weights as they are served, back in the form in which they were published."""

import contextlib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from rlserve.actors.rollout.weight_exchange import Change
from rlserve.actors.rollout.weight_file import DTYPES
from rlserve.actors.rollout.weight_layout import Layout, UnknownLayout, disassemble, layout_of
from rlserve.errors import WeightsMismatch
from rlserve.records import TensorSpec


def served_tensors(
    model: nn.Module, specs: Sequence[TensorSpec], given: Mapping[str, Tensor], changes: Sequence[Change]
) -> dict[str, Tensor]:
    """The tensors of ``specs`` by name, read back from the model wherever it keeps them readable.

    Where it computes with a packed copy: the tensors that were packed, after making sure that this very copy is
    the one in place. Where the layout is unknown: ``given``, the tensors that vLLM's loader had.
    Raises WeightsMismatch.
    """
    found = dict(given)
    with contextlib.suppress(UnknownLayout):
        found |= _read(layout_of(model), {spec.name: spec.shape for spec in specs}, _packed(changes))
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
            raise WeightsMismatch(f"{type(change.module).__name__}: computes with other weights than were staged")
    return {(id(c.module), name): tensor for c in changes for name, tensor in c.parameters.items()}
