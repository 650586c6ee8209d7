"""Publishes weight versions: the bytes of each in one file, its predecessor kept as the base of a delta.

``publish`` is called by the training thread; ``latest``, ``get`` and ``delta`` by service threads.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlserve.errors import Unavailable, UnknownName
from rlserve.records import PolicyVersion, TensorSpec
from rlserve.weight_sync import delta
from rlserve.weight_sync.manifest import Bytes, manifest_digest, spec_of
from rlserve.weight_sync.weight_files import WeightFiles, mapped

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A published version and its bytes."""

    policy: PolicyVersion
    path: Path
    """Flat file, removed when enough newer versions are published."""
    flat: Bytes
    """The same bytes, mapped: valid after the file is removed, not after it is truncated, see :meth:`check_whole`."""
    file: IO[bytes]

    def check_whole(self) -> None:
        """Raises Unavailable when another process truncated the file: a read of the mapping would be a SIGBUS."""
        if (size := os.fstat(self.file.fileno()).st_size) != self.policy.total_bytes:
            raise Unavailable(
                f"version {self.policy.version}: {self.path} was cut from {self.policy.total_bytes} to {size} bytes by "
                "something else; the next version replaces it"
            )

    def read(self, start: int, size: int) -> bytes:
        """Bytes from ``start``; fewer than ``size`` at the end. Raises Unavailable when the file was truncated."""
        size = min(size, self.policy.total_bytes - start)
        data = os.pread(self.file.fileno(), size, start)
        if len(data) != size:
            self.check_whole()
        return data


class Publisher:
    """Keeps the last ``keep`` versions; ``get`` of an older one raises UnknownName, which lists those kept.

    For example::

        publisher = Publisher(Path("/dev/shm"), run_id="r", fallback=run_directory)
        publisher.subscribe(announce)                             # called with each new version
        policy = publisher.publish(model_tensors, version=1)
        publisher.get(1).path                                     # the flat file
        publisher.delta(0, 1)                                     # bytes, or None when a full copy is smaller
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
        self._encoding = threading.Lock()
        self._versions: dict[int, Published] = {}
        self._deltas: dict[tuple[int, int], bytes | None] = {}
        self._listeners: list[Callable[[PolicyVersion], object]] = []

    def publish(
        self,
        tensors: Iterable[tuple[str, Any]],
        version: int,
        *,
        is_final: bool = False,
        size_bytes: int | None = None,
    ) -> PolicyVersion:
        """Write, digest and announce a version. Tensors are contiguous and on the CPU, tied ones given once.

        ``size_bytes`` is their total, where it is known in advance. Raises LimitExceeded when no place has room.
        """
        specs: list[TensorSpec] = []
        # Without the lock: the older versions are served meanwhile.
        path, file = self._files.write(version, _contents(tensors, specs), size_bytes=size_bytes)
        previous = self.latest()
        policy = PolicyVersion(
            version=version,
            tensors=tuple(specs),
            digest=manifest_digest(specs),
            # A number may be published again (``_add`` replaces it), and no version is its own parent.
            parent_version=previous.policy.version if previous and previous.policy.version < version else None,
            published_unix_seconds=time.time(),
            run_id=self._run_id,
            is_final=is_final,
        )
        # Before it is announced, since workers fetch it at once.
        self._add(Published(policy, path, mapped(file), file))
        for listener in list(self._listeners):
            listener(policy)
        return policy

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

    def delta(self, base: int, version: int) -> bytes | None:
        """The difference between two kept versions; None when no delta is smaller than a full copy."""
        with self._lock:
            if base not in self._versions or version not in self._versions:
                return None
            old, new = self._versions[base], self._versions[version]
            # ``in``, not ``get``: None is a result.
            if (base, version) in self._deltas:
                return self._deltas[base, version]
        # One encoding at a time, looked up again inside: workers ask for the same delta at the same moment. The main
        # lock is free meanwhile, so that announcements and other fetches go on.
        with self._encoding:
            with self._lock:
                if (base, version) in self._deltas:
                    return self._deltas[base, version]
            # Without the main lock: the mappings stay valid even if the versions are dropped meanwhile.
            encoded = _difference(old, new)
            with self._lock:
                self._deltas[base, version] = encoded
        return encoded

    def close(self) -> None:
        """Remove the files."""
        with self._lock:
            self._versions.clear()
            self._deltas.clear()
            self._files.close()

    def _add(self, published: Published) -> None:
        with self._lock:
            if (same := self._versions.pop(published.policy.version, None)) is not None:
                self._files.remove(same.path)
            self._versions[published.policy.version] = published
            for old in sorted(self._versions)[: -self._keep]:
                # A worker that opened the file keeps it: removing takes away its name alone.
                self._files.remove(self._versions.pop(old).path)
            self._deltas = {key: d for key, d in self._deltas.items() if set(key) <= set(self._versions)}


def _contents(tensors: Iterable[tuple[str, Any]], specs: list[TensorSpec]) -> Iterator[memoryview]:
    """The bytes of each tensor; its manifest entry is appended to ``specs``."""
    for name, tensor in tensors:
        spec, content = spec_of(name, tensor)
        specs.append(spec)
        yield content.data


def _difference(old: Published, new: Published) -> bytes | None:
    same = [(t.name, t.shape, t.dtype) for t in old.policy.tensors] == [
        (t.name, t.shape, t.dtype) for t in new.policy.tensors
    ]
    if not same:
        return None
    old.check_whole()
    new.check_whole()
    return delta.encode(old.flat, new.flat, new.policy.tensors)
