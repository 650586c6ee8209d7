"""Learner: the newest version in the memory of the device on which it trains, for engines on the same device.

It is made when an engine asks for it, and holds one version. The next one is written over it only after a lock on the
file of the version before: an engine holds one as long as it reads the memory. Without that lock the next version goes
without the memory, and its workers take the file.
"""

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rlserve.weight_sync.device_memory import DeviceMemory, SharedMemory, device_name
from rlserve.weight_sync.mapped_file import MappedFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)


class VersionMemory:
    """``room`` and ``holds`` are called by the thread that publishes, ``of`` by those that serve."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = ""
        self._shared: SharedMemory | None = None
        self._holds: tuple[MappedFile, Path] | None = None
        """The file of the version in memory, under its name then: the file may serve another one later."""
        self._locked: MappedFile | None = None
        """File of the version that is being written over."""
        self._closed = False

    def of(self, file: MappedFile, device: str) -> DeviceMemory | None:
        """The memory, if it holds the version of this file and is on this device; remembers that it is wanted."""
        with self._lock:
            self._wanted = device
            if self._shared is None or self._shared.memory.device != device or self._holds != (file, file.path):
                return None
            return self._shared.memory

    def room(self, size: int, device: "torch.device") -> "Tensor | None":
        """Memory to write the next version to; None when no engine wants it, it is read now, or there is no room.

        ``holds`` must follow for that version; a version that is given up leaves the memory empty.
        """
        with self._lock:
            self._unlock()
            if self._closed or not self._wanted or self._wanted != device_name(device):
                return None
            if self._holds is not None:
                if not self._holds[0].lock_alone():
                    logger.info("an engine still reads the memory of the last version: the next one goes by its file")
                    return None
                self._locked, self._holds = self._holds[0], None
            if self._shared is None or self._shared.memory.size != size:
                self._make(size, device)
            return None if self._shared is None else self._shared.content

    def holds(self, file: MappedFile) -> None:
        """The version of this file is in the room that was given."""
        with self._lock:
            self._unlock()
            self._holds = file, file.path

    def close(self) -> None:
        """Free the memory."""
        with self._lock:
            self._closed = True
            self._unlock()
            self._drop()

    def _unlock(self) -> None:
        locked, self._locked = self._locked, None
        if locked is not None:
            locked.release()

    def _drop(self) -> None:
        shared, self._shared, self._holds = self._shared, None, None
        if shared is not None:
            shared.close()

    def _make(self, size: int, device: "torch.device") -> None:
        self._drop()
        try:
            self._shared = SharedMemory(device, size)
        except (OSError, RuntimeError) as error:
            self._closed = True
            logger.warning("weights go by files to engines on the learner's device: %s", error)
