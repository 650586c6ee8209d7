"""A worker's own copies of versions: flat files for the engine, the newest one kept as the base of deltas."""

from contextlib import ExitStack
from pathlib import Path

from rlserve.records import PolicyVersion
from rlserve.weight_sync.device_memory import DeviceMemory
from rlserve.weight_sync.manifest import Bytes
from rlserve.weight_sync.mapped_file import MappedFile
from rlserve.weight_sync.weight_files import WeightFiles

KEEP = 2
"""Files at once: the one that the engine serves and may still be reading, and the one that it stages."""


class Staging:
    """Flat files of received versions. For one thread at a time."""

    def __init__(self, directory: Path, *, fallback: Path | None = None, device: str = "") -> None:
        """``directory`` and ``fallback``: see :class:`WeightFiles`. ``device``: where the engine takes memory from."""
        self.device = device
        """``device_name`` of the engine's device; empty when it takes files alone."""
        self._noted: tuple[Path, DeviceMemory] | None = None
        self._files = WeightFiles(directory, fallback=fallback)
        self.at_close = ExitStack()
        """What carriers end with this worker."""
        self._newest: tuple[int, Bytes] | None = None
        self._held: list[MappedFile] = []

    def note(self, path: Path, memory: DeviceMemory) -> None:
        """The bytes of this file are also in a device's memory, until the next version comes."""
        self._noted = path, memory

    def memory_of(self, path: Path) -> DeviceMemory | None:
        """The memory that holds the bytes of this file, if a carrier brought it."""
        return self._noted[1] if self._noted is not None and self._noted[0] == path else None

    def held(self, version: int) -> Bytes | None:
        """The bytes of a version, if it is the one that was written last."""
        return self._newest[1] if self._newest is not None and self._newest[0] == version else None

    def create(self, policy: PolicyVersion) -> MappedFile:
        """A file for these bytes; to be handed to ``keep``, or discarded. Raises LimitExceeded when it fits nowhere."""
        return self._files.create(policy.version, policy.total_bytes)

    def take(self, policy: PolicyVersion, copy: Path) -> Path:
        """The version as another worker of this host has it. Raises OSError, LimitExceeded when it cannot be had."""
        return self.keep(policy, self._files.link(policy.version, copy, policy.total_bytes))

    def owns(self, path: Path) -> bool:
        """Whether this file was made here, and holds a version."""
        return any(file.path == path for file in self._held)

    def keep(self, policy: PolicyVersion, file: MappedFile) -> Path:
        """The file holds the version; older ones are removed."""
        self._newest = (policy.version, file.flat)
        self._held.append(file)
        for old in self._held[:-KEEP]:
            old.discard()
        self._held = self._held[-KEEP:]
        return file.path

    def close(self) -> None:
        """Remove all files."""
        self.at_close.close()
        self._files.close()
        self._held.clear()
        self._newest = None
