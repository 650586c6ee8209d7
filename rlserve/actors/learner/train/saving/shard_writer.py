"""Writes safetensors files in another thread, in the order in which they are handed over, digested on the way.

One thread gives shards of tensors in host memory; another writes them. At most ``buffer_bytes`` of them exist at once
(one shard being filled, those that wait, one being written): whoever gives waits for room.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from torch import Tensor

from rlserve.actors.learner.train.saving.model_files import SHARD_BYTES

Entry = Mapping[str, Any]
"""``bytes`` and ``sha256`` of a file."""
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types by their names in a safetensors header."""
IN_HANDS = 2
"""Shards beside those that wait: one is being filled, one written."""


class Abandoned(Exception):
    """The giver gave up; what was written is not whole."""


class ShardWriter:
    """Between the thread that copies and the one that writes.

    Example::

        writer = ShardWriter(directory, buffer_bytes=8 * 2**30)
        future = pool.submit(writer.drain)
        writer.add(directory / "a.safetensors", {"x": tensor})     # waits for room, not for the disk
        writer.end()
        future.result()                                            # {"a.safetensors": {"bytes": ..., "sha256": ...}}
    """

    def __init__(self, directory: Path, *, buffer_bytes: int) -> None:
        self._directory = directory
        room = max(1, buffer_bytes // SHARD_BYTES - IN_HANDS)
        self._waiting: Queue[tuple[Path, Mapping[str, Tensor]] | None] = Queue(room)
        self._is_abandoned = False

    def add(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Hand over a shard, whose tensors no thread changes any more."""
        self._waiting.put((path, tensors))

    def end(self) -> None:
        """No more come."""
        self._waiting.put(None)

    def abandon(self) -> None:
        """No more come, though more were to come."""
        self._is_abandoned = True
        self.end()

    def drain(self, progress: Callable[[int], object] = lambda _: None) -> dict[str, Entry]:
        """Write all until the end; what each file became, by its path under the directory.

        ``progress`` gets the number of files that are on the disk. Raises what went wrong, or Abandoned.
        """
        entries: dict[str, Entry] = {}
        failure: Exception | None = None
        while (shard := self._waiting.get()) is not None:
            # After a failure the rest is taken and dropped: the giver must not wait for room without end.
            if failure is None and not self._is_abandoned:
                path, tensors = shard
                try:
                    entries[str(path.relative_to(self._directory))] = write_file(path, tensors)
                    progress(len(entries))
                except Exception as error:
                    failure = error
            del shard
        if failure is not None:
            raise failure
        if self._is_abandoned:
            raise Abandoned
        return entries


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> Entry:
    """Write a safetensors file; it is on the disk on return."""
    digest, size = hashlib.sha256(), 0
    # Wide types first, as the format's own library orders them: every tensor is aligned then.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    with path.open("wb") as file:
        for content in (_header(ordered), *(_bytes(tensor) for _, tensor in ordered)):
            file.write(content)
            digest.update(content)
            size += len(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _header(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    # "pt" is the framework, which transformers checks.
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors:
        described[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format's padding, so that the tensors begin aligned
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> Any:
    """``[bytes]``, of the tensor's own memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy()
