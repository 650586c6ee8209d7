"""Copies the next weights to the device beside generation, and then into the served parameters. For accelerators.

A captured CUDA graph holds the parameters by address, so that they stay where they are, and their contents change. The
slow part, from the host to the device, happens while generation goes on; in the pause there are only copies within the
device, at the speed of its memory. The room for them, as large as the model, is kept from one version to the next.
Where the device has too little left it is locked memory of the host: the pause then takes as long as the bus does.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.engines.vllm.layout import Layout, Part, Slot, UnknownLayout, check_names, layout_of, parts_of
from rlserve.engines.vllm.readback import check_tensors, tensors_in
from rlserve.records import PolicyVersion
from rlserve.weight_sync.checksum import WORD_BYTES, of_part
from rlserve.weight_sync.manifest import Bytes, slices

logger = logging.getLogger(__name__)

SPARE_BYTES = 2**30
"""Left free on the device beside the room: generation allocates a little now and then."""
PIECE_BYTES = 2**26
"""Copied at once: a piece takes milliseconds, in which the driver may hold up the kernels of generation."""


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """One part of a checkpoint tensor on its way into the parameter that holds it."""

    slot: Slot
    part: Part
    tensor: Tensor
    """The part, staged."""

    @property
    def target(self) -> Tensor:
        """Its place in the live parameter, a view."""
        return self.slot.parameter.data[self.part.place]


@dataclass(slots=True, eq=False)
class DirectCopy:
    """Stages and copies the weights of one model, or of this rank's part of it.

    Raises UnknownLayout for a model of another layout. Example::

        direct = DirectCopy(model, device)
        direct.check(start_tensors)            # once: the layout is that of the parameters as vLLM loaded them
        staged = direct.stage(policy, flat)    # beside generation, the slow part
        direct.apply(staged)                   # while generation is paused
    """

    model: nn.Module
    device: torch.device
    shared_out: bool = False
    """Whether each rank holds a part of the model alone."""
    layout: Layout = field(init=False)
    _room: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.layout = layout_of(self.model, shared_out=self.shared_out)
        for slot in self.layout.slots:
            if slot.is_packed:
                raise UnknownLayout(f"{slot.attribute} of {slot.module}: only a packed copy is kept")

    @torch.no_grad()
    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise UnknownLayout unless the parameters hold these tensors, from which vLLM loaded them."""
        check_names(self.layout, tensors)
        for slot, part in self._parts({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
            found = slot.parameter.data[part.place]
            if not torch.equal(found, part.of(tensors[part.name]).to(found.device, found.dtype)):
                raise UnknownLayout(f"the parameter of {part.name} is not what vLLM loaded")
            if self.shared_out:
                try:
                    _contribution(found, part, tuple(tensors[part.name].shape))
                except ValueError as error:
                    raise UnknownLayout(f"this rank's part of {part.name} cannot be digested: {error}") from error

    @torch.no_grad()
    def stage(self, policy: PolicyVersion, flat: Bytes) -> list[Copy]:
        """The version's tensors, or this rank's parts of them, in room that the next ``stage`` takes again.

        Raises UnknownLayout when they are not exactly the tensors of the model, and WeightsMismatch when a digest
        differs; a rank that holds parts cannot compare digests, so that its caller has to.
        """
        with beside_generation(self.device):
            if self.shared_out:
                return self._staged_parts(tensors_in(policy, flat))
            room = self._room_for(flat.size)
            self._fill(room, torch.from_numpy(flat))
            return self._checked(policy, room)

    @torch.no_grad()
    def stage_tensors(self, tensors: Mapping[str, Tensor], among: Set[str]) -> list[Copy]:
        """As ``stage``, for all tensors of a version in host memory, of which ``among`` differ from those served."""
        with beside_generation(self.device):
            return self._staged_parts(tensors, among)

    @torch.no_grad()
    def stage_in_place(self, policy: PolicyVersion, content: Tensor) -> list[Copy]:
        """As ``stage``, for bytes that are on the device: they are copied in the pause alone."""
        self._give_room_back()
        with beside_generation(self.device):
            return self._checked(policy, content)

    @torch.no_grad()
    def apply(self, copies: Sequence[Copy]) -> None:
        """Copy staged tensors into the parameters, behind the device's running step."""
        # One call for all of them: hundreds of small copies would wait for each other's launch.
        torch._foreach_copy_([copy.target for copy in copies], [copy.tensor for copy in copies], non_blocking=True)

    @torch.no_grad()
    def shares(self, policy: PolicyVersion) -> dict[str, tuple[str, int]]:
        """By tensor, which part this rank serves and its contribution to the checksum; for ``combined_digest``."""
        shapes = {spec.name: spec.shape for spec in policy.tensors}
        found = list(self._parts(shapes))
        sums = [_contribution(slot.parameter.data[part.place], part, shapes[part.name]) for slot, part in found]
        values = torch.stack(sums).tolist()
        return {part.name: (_key(part), value) for (_, part), value in zip(found, values, strict=True)}

    def _checked(self, policy: PolicyVersion, content: Tensor) -> list[Copy]:
        tensors = {
            spec.name: content[place].view(getattr(torch, spec.dtype)).view(spec.shape)
            for spec, place in slices(policy.tensors)
        }
        check_tensors(policy, tensors)
        check_names(self.layout, tensors)
        parts = self._parts({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return [Copy(slot, part, tensors[part.name]) for slot, part in parts]

    def _staged_parts(self, tensors: Mapping[str, Tensor], among: Set[str] | None = None) -> list[Copy]:
        check_names(self.layout, tensors)
        parts = self._parts({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        found = [(slot, part) for slot, part in parts if among is None or part.name in among]
        sizes = [part.of(tensors[part.name]).nbytes for _, part in found]
        room = self._room_for(sum(size + -size % WORD_BYTES for size in sizes))
        copies, start = [], 0
        for (slot, part), size in zip(found, sizes, strict=True):
            source = part.of(tensors[part.name])
            target = room[start : start + size]
            self._fill(target, source.contiguous().view(-1).view(torch.uint8))
            copies.append(Copy(slot, part, target.view(source.dtype).view(source.shape)))
            start += size + -size % WORD_BYTES
        return copies

    def _parts(self, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[Slot, Part]]:
        """What this rank's parameters are made of. Raises UnknownLayout when names or shapes do not fit."""
        done: set[str] = set()
        for slot in self.layout.slots:
            for part in parts_of(slot, shapes):
                if part.name not in done:  # a tied parameter is met once per module
                    done.add(part.name)
                    yield slot, part

    def _give_room_back(self) -> None:
        """To the device and not to this process: on one GPU the learner may need it."""
        had, self._room = self._room, None
        if had is not None and self.device.type == "cuda":
            del had
            torch.cuda.empty_cache()

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


def _contribution(held: Tensor, part: Part, shape: tuple[int, ...]) -> Tensor:
    row_bytes = held.element_size() * math.prod(shape[1:])
    start = part.rows.start * row_bytes
    if part.columns is not None:
        start += part.columns.start * held.element_size() * math.prod(shape[2:])
    return of_part(held, start=start, stride=row_bytes)


def _key(part: Part) -> str:
    return f"{part.rows.start},{0 if part.columns is None else part.columns.start}"
