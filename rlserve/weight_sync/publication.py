"""One version on its way into its file: tensors are copied there, then digested, then it is announced.

Copies of a GPU's tensors run on a stream of their own, straight into the file's locked pages, and their checksums are
computed beside them; a copy in host memory is a plain one, and is digested afterwards. Until ``copied`` returns, the
tensors must keep their values.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rlserve.records import PolicyVersion, TensorSpec
from rlserve.weight_sync.checksum import MASK, all_on_device, checksum
from rlserve.weight_sync.manifest import slices, spec_with
from rlserve.weight_sync.mapped_file import MappedFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOGETHER_BYTES = 2**28
"""Digested together, and held until then: a tensor that was converted takes memory of its own."""


@dataclass(slots=True)
class PublishTimes:
    """Where the seconds of one publication went."""

    started: float = field(default_factory=time.monotonic)
    copy_seconds: float = 0.0
    """From its start until the weights might change again."""
    digest_seconds: float = 0.0
    seconds: float = 0.0
    """From its start until it was announced."""
    num_bytes: int = 0

    def metrics(self) -> dict[str, float]:
        """By name of metric."""
        return {
            "publish/seconds": self.seconds,
            "publish/copy_seconds": self.copy_seconds,
            "publish/digest_seconds": self.digest_seconds,
            "publish/bytes_per_second": self.num_bytes / max(self.seconds, 1e-9),
        }


class Publication:
    """Begun by ``Publisher.begin``.

    Example; the first line in the training thread, the others in any one thread::

        publication = publisher.begin(7, size_bytes=2**30, device=torch.device("cuda:0"))
        with publication.copying():
            publication.add("model.norm.weight", parameter, torch.bfloat16)      # and all others
        publication.copied()            # the parameters may change again
        policy = publication.finish()   # announced
    """

    def __init__(
        self,
        file: MappedFile,
        announce: Callable[[tuple[TensorSpec, ...], MappedFile], PolicyVersion],
        device: "torch.device | None" = None,
        room: "Tensor | None" = None,
    ) -> None:
        """``announce`` gets the tensors and the file; ``device``: where the tensors are, None for host memory.

        ``room`` is memory of the device, ``[size]`` uint8, that gets the bytes too.
        """
        self._file = file
        self._room = room
        self._announce = announce
        self._device = device if device is not None and device.type == "cuda" else None
        self._specs: list[TensorSpec] = []
        self._undigested: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._written = 0
        self.times = PublishTimes(num_bytes=file.size)
        self._stream: Any = None
        self._ready: Any = None
        if self._device is not None:
            import torch

            with torch.cuda.device(self._device):
                file.pin()
            # What this thread has given the GPU so far (the last update) comes before the copies.
            self._ready = torch.cuda.current_stream(self._device).record_event()
            self._stream = torch.cuda.Stream(self._device)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU copies."""
        return self._device is not None

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """Inside, copies go to the GPU's own stream for them."""
        if self._device is None:
            yield
            return
        import torch

        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_event(self._ready)
            yield

    def add(self, name: str, tensor: "Tensor", dtype: "torch.dtype") -> None:
        """Begin to copy a tensor in ``dtype``, behind those before it. Raises ValueError when it does not fit."""
        import torch

        size = tensor.numel() * dtype.itemsize
        place = slice(self._written, self._written + size)
        if place.stop > self._file.size:
            raise ValueError(f"weights: {name!r} does not fit into {self._file.size} bytes after {self._written}")
        # A part of its own, as a tensor may begin anywhere in the file.
        whole = torch.from_numpy(self._file.content[place]) if self._room is None else self._room[place]
        target = whole.view(dtype).view(tensor.shape)
        tensor = tensor.detach()
        if tensor.device.type == "cuda":
            # In the wanted form first: a copy that has to convert waits for itself.
            tensor = tensor.to(dtype).contiguous()
            self._undigested.append(tensor)
            if sum(held.nbytes for held in self._undigested) > TOGETHER_BYTES:
                self._digest_on_device()
        target.copy_(tensor, non_blocking=True)
        self._specs.append(spec_with(name, target, digest=""))
        self._written += size

    def settle(self) -> None:
        """Wait for the copies so far: the next tensors may take the memory of these."""
        if self._device is not None:
            import torch

            self._digest_on_device()
            torch.cuda.current_stream(self._device).synchronize()

    def copied(self) -> None:
        """No more tensors come; wait until all are in the file."""
        if self._device is not None:
            with self.copying():
                self._digest_on_device()
            self._stream.synchronize()
        self.times.copy_seconds = time.monotonic() - self.times.started

    def finish(self) -> PolicyVersion:
        """Digest what was copied and announce the version. Raises ValueError when tensors are missing."""
        if self._written != self._file.size:
            raise ValueError(f"weights: {self._written} bytes were given where {self._file.size} were expected")
        started = time.monotonic()
        if self._room is not None:
            self._copy_to_file(self._room)
        policy = self._announce(self._digested(), self._file)
        self.times.seconds = time.monotonic() - self.times.started
        self.times.digest_seconds = time.monotonic() - started
        return policy

    def abandon(self) -> None:
        """Remove the file."""
        self._file.discard()

    def _copy_to_file(self, room: "Tensor") -> None:
        import torch

        with self.copying():
            torch.from_numpy(self._file.content).copy_(room, non_blocking=True)
            self.settle()

    def _digest_on_device(self) -> None:
        """Begin to compute the checksums of what was added; before its tensors may change."""
        given, self._undigested = self._undigested, []
        if given:
            self._sums.append(all_on_device(given))

    def _digested(self) -> tuple[TensorSpec, ...]:
        if self._sums:
            import torch

            # On their stream: the one of the next step is busy.
            with self.copying():
                sums = [f"{value & MASK:016x}" for value in torch.cat(self._sums).tolist()]
        else:
            sums = [checksum(self._file.flat[place]) for _, place in slices(self._specs)]
        return tuple(replace(spec, digest=found) for spec, found in zip(self._specs, sums, strict=True))
