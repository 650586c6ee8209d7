"""Copies the next weights to the device beside generation, and then into the served parameters. For accelerators.

A captured CUDA graph holds the parameters by address, so that they stay where they are, and their contents change. The
slow part, from the host to the device, happens while generation goes on; in the pause there are only copies within the
device, at the speed of its memory. The room for them, as large as the model, is kept from one version to the next.
Where the device has too little left it is locked memory of the host: the pause then takes as long as the bus does.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.engines.vllm.layout import Layout, UnknownLayout, check_names, disassemble, layout_of
from rlserve.engines.vllm.readback import check_tensors
from rlserve.records import PolicyVersion
from rlserve.weight_sync.manifest import Bytes, slices

logger = logging.getLogger(__name__)

SPARE_BYTES = 2**30
"""Left free on the device beside the room: generation allocates a little now and then."""
PIECE_BYTES = 2**26
"""Copied at once: a piece takes milliseconds, in which the driver may hold up the kernels of generation."""


@dataclass(slots=True, eq=False)
class DirectCopy:
    """Stages and copies the weights of one model. Raises UnknownLayout for a model of another layout.

    Example::

        direct = DirectCopy(model, device)
        direct.check(start_tensors)            # once: the layout is that of the parameters as vLLM loaded them
        staged = direct.stage(policy, flat)    # beside generation, the slow part
        direct.apply(staged)                   # while generation is paused
    """

    model: nn.Module
    device: torch.device
    layout: Layout = field(init=False)
    _room: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.layout = layout_of(self.model)
        for slot in self.layout.slots:
            if slot.is_packed:
                raise UnknownLayout(f"{slot.attribute} of {slot.module}: only a packed copy is kept")

    @torch.no_grad()
    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise UnknownLayout unless the parameters hold these tensors, from which vLLM loaded them."""
        check_names(self.layout, tensors)
        for name, place in self._places(tensors):
            if not torch.equal(place, tensors[name].to(place.device, place.dtype)):
                raise UnknownLayout(f"the parameter of {name} is not what vLLM loaded")

    @torch.no_grad()
    def stage(self, policy: PolicyVersion, flat: Bytes) -> dict[str, Tensor]:
        """The version's tensors by name, in room that the next ``stage`` takes again.

        Raises WeightsMismatch when a digest differs, UnknownLayout when they are not exactly the tensors of the model.
        """
        room = self._room_for(flat.size)
        with beside_generation(self.device):
            self._fill(room, torch.from_numpy(flat))
            return self._checked(policy, room)

    @torch.no_grad()
    def stage_in_place(self, policy: PolicyVersion, content: Tensor) -> dict[str, Tensor]:
        """As ``stage``, for bytes that are on the device: they are copied in the pause alone."""
        with beside_generation(self.device):
            return self._checked(policy, content)

    def _checked(self, policy: PolicyVersion, content: Tensor) -> dict[str, Tensor]:
        tensors = {
            spec.name: content[place].view(getattr(torch, spec.dtype)).view(spec.shape)
            for spec, place in slices(policy.tensors)
        }
        check_tensors(policy, tensors)
        check_names(self.layout, tensors)
        for _ in self._places(tensors):
            pass
        return tensors

    @torch.no_grad()
    def apply(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy staged tensors into the parameters, behind the device's running step."""
        places = dict(self._places(tensors))
        # One call for all of them: hundreds of small copies would wait for each other's launch.
        torch._foreach_copy_(list(places.values()), [tensors[name] for name in places], non_blocking=True)

    def _places(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Each checkpoint tensor's part of the parameters. Raises UnknownLayout when the shapes do not fit."""
        done: set[str] = set()
        for slot in self.layout.slots:
            shapes = {name: tuple(tensors[name].shape) for name in slot.sources if name in tensors}
            if missing := [name for name in slot.sources if name not in shapes]:
                raise UnknownLayout(f"no checkpoint tensor {missing[0]!r} for {slot.attribute} of {slot.module}")
            rows = sum(shape[0] for shape in shapes.values())
            if rows > slot.shape[0] or any(shape[1:] != slot.shape[1:] for shape in shapes.values()):
                raise UnknownLayout(f"{slot.sources}: shapes {list(shapes.values())} do not make {slot.shape}")
            for name, place in disassemble(slot, slot.parameter.data, shapes):
                if name not in done:  # a tied parameter is met once per module
                    done.add(name)
                    yield name, place

    def _room_for(self, size: int) -> Tensor:
        if self._room is None or self._room.numel() != size:
            self._room = None  # freed before the next is made
            self._room = self._on_device(size)
        if self._room is None:
            logger.warning("the device has no room for %d bytes of weights: they are staged on the host", size)
            self._room = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._room

    def _on_device(self, size: int) -> Tensor | None:
        if self.device.type == "cuda" and torch.cuda.mem_get_info(self.device)[0] < size + SPARE_BYTES:
            return None
        try:
            return torch.empty(size, dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError:
            return None

    def _fill(self, room: Tensor, source: Tensor) -> None:
        """Copy the host's bytes into the room, through locked memory where that is on a GPU."""
        if self.device.type != "cuda" or room.device.type == "cpu":
            room.copy_(source)
            return
        # Two pieces in turn: one is copied by the processor while the bus takes the other. The whole file is not
        # locked instead: the driver would hold up generation while it does that.
        pieces = [torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        taken: list[Any] = [torch.cuda.Event(), torch.cuda.Event()]
        for number, start in enumerate(range(0, source.numel(), PIECE_BYTES)):
            part = source[start : start + PIECE_BYTES]
            piece = pieces[number % 2][: part.numel()]
            taken[number % 2].synchronize()
            piece.copy_(part)
            room[start : start + part.numel()].copy_(piece, non_blocking=True)
            taken[number % 2].record()


@contextlib.contextmanager
def beside_generation(device: torch.device) -> Iterator[None]:
    """On a GPU, work in the block runs on a stream of its own; it has ended when the block ends."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        stream: Any = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()
