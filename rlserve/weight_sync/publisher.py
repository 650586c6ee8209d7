"""Publishes weight versions: the bytes of each in one file, its predecessor kept as the base of a difference.

``begin`` and ``publish`` are called by one thread at a time; ``latest``, ``get`` and ``find`` by service threads.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlserve.errors import UnknownName
from rlserve.records import PolicyVersion, TensorSpec
from rlserve.weight_sync.device_memory import DeviceMemory
from rlserve.weight_sync.manifest import Bytes, manifest_digest
from rlserve.weight_sync.mapped_file import MappedFile
from rlserve.weight_sync.publication import Publication
from rlserve.weight_sync.version_memory import VersionMemory
from rlserve.weight_sync.weight_files import WeightFiles

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Published:
    """A published version and its bytes. Its file is written again only when no caller holds this object any more."""

    policy: PolicyVersion
    file: MappedFile

    @property
    def path(self) -> Path:
        """Flat file, for other processes of this host."""
        return self.file.path

    @property
    def flat(self) -> Bytes:
        """The same bytes, mapped. Call ``file.check_whole`` before a read."""
        return self.file.flat


class Publisher:
    """Keeps the last ``keep`` versions; ``get`` of an older one raises UnknownName, which lists those kept.

    For example::

        publisher = Publisher(Path("/dev/shm"), run_id="r", fallback=run_directory)
        publisher.subscribe(announce)                             # called with each new version
        policy = publisher.publish(model_tensors, version=1)
        publisher.get(1).path                                     # the flat file
        publisher.close()
    """

    def __init__(
        self,
        directory: Path,
        *,
        run_id: str,
        keep: int = 2,
        fallback: Path | None = None,
        warn: Callable[[str], object] = logger.warning,
    ) -> None:
        """``directory``, ``fallback`` and ``warn``: see :class:`WeightFiles`."""
        self._files = WeightFiles(directory, fallback=fallback, warn=warn)
        self._run_id = run_id
        self._keep = keep
        # The training thread publishes while service threads look versions up.
        self._lock = threading.Lock()
        self._versions: dict[int, Published] = {}
        self._memory = VersionMemory()
        self.at_close = ExitStack()
        """What carriers end with this learner."""
        self._listeners: list[Callable[[PolicyVersion], object]] = []

    def begin(
        self, version: int, *, size_bytes: int, device: "torch.device | None" = None, is_final: bool = False
    ) -> Publication:
        """Begin to publish a version of this size, whose tensors are on ``device``; one at a time.

        Raises LimitExceeded when no place has room.
        """
        # Without the lock: the older versions are served meanwhile.
        file = self._files.create(version, size_bytes)
        room = self._memory.room(size_bytes, device) if device is not None else None
        return Publication(file, partial(self._announce, version, is_final, room is not None), device, room)

    def publish(self, tensors: Iterable[tuple[str, Any]], version: int, *, is_final: bool = False) -> PolicyVersion:
        """Copy, digest and announce a version at once; tied tensors are given once. Raises LimitExceeded."""
        given = list(tensors)
        size = sum(tensor.numel() * tensor.element_size() for _, tensor in given)
        device = given[0][1].device if given else None
        publication = self.begin(version, size_bytes=size, device=device, is_final=is_final)
        try:
            with publication.copying():
                for name, tensor in given:
                    publication.add(name, tensor, tensor.dtype)
            publication.copied()
            return publication.finish()
        except BaseException:
            publication.abandon()
            raise

    def memory_of(self, published: Published, device: str) -> DeviceMemory | None:
        """The version's bytes in the memory of this device, if they are there.

        Asking makes the next versions go there, where it is the device on which the learner computes.
        """
        return self._memory.of(published.file, device)

    def prepare(self, size_bytes: int, *, pin: bool) -> None:
        """Make the file of the next version ahead of it, where there is room for one more; ``pin``: for a GPU."""
        file = self._files.prepare(size_bytes)
        if file is not None and pin:
            file.pin()

    def subscribe(self, listener: Callable[[PolicyVersion], object]) -> Callable[[], None]:
        """Call ``listener`` with each new version, in the publishing thread; returns a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def latest(self) -> Published | None:
        """The newest version; None before the first."""
        with self._lock:
            return self._versions[max(self._versions)] if self._versions else None

    def get(self, version: int) -> Published:
        """A version that is still kept. Raises UnknownName, which lists those kept."""
        with self._lock:
            if version in self._versions:
                return self._versions[version]
            kept = ", ".join(map(str, sorted(self._versions))) or "none yet"
        raise UnknownName(f"version: {version} is not held (held: {kept}); ask for the newest")

    def find(self, version: int) -> Published | None:
        """A version that is still kept, or None."""
        with self._lock:
            return self._versions.get(version)

    def close(self) -> None:
        """Remove the files."""
        self.at_close.close()
        with self._lock:
            self._versions.clear()
            self._files.close()
        self._memory.close()

    def _announce(
        self, version: int, is_final: bool, in_memory: bool, tensors: tuple[TensorSpec, ...], file: MappedFile
    ) -> PolicyVersion:
        previous = self.latest()
        policy = PolicyVersion(
            version=version,
            tensors=tensors,
            digest=manifest_digest(tensors),
            # A number may be published again (``_add`` replaces it), and no version is its own parent.
            parent_version=previous.policy.version if previous and previous.policy.version < version else None,
            published_unix_seconds=time.time(),
            run_id=self._run_id,
            is_final=is_final,
        )
        if in_memory:
            self._memory.holds(file)
        file.release()
        # Before it is announced, since workers fetch it at once.
        self._add(Published(policy, file))
        for listener in list(self._listeners):
            listener(policy)
        return policy

    def _add(self, published: Published) -> None:
        with self._lock:
            if (same := self._versions.pop(published.policy.version, None)) is not None:
                same.file.discard()
            self._versions[published.policy.version] = published
            for version in sorted(self._versions)[: -self._keep]:
                old = self._versions.pop(version)
                self._files.retire(old.file, weakref.ref(old))
