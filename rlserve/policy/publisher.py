"""Makes a version available: its bytes in one shared file, its predecessor kept for deltas.

``publish`` is called by the training thread; ``latest``, ``get`` and ``delta`` by service threads.
"""

import contextlib
import logging
import mmap
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlserve.errors import UnknownName
from rlserve.policy import delta
from rlserve.policy.manifest import Bytes, manifest_digest, spec_of
from rlserve.records import PolicyVersion, TensorSpec

logger = logging.getLogger(__name__)

PREFIX = "rlserve-weights"
_NAME = re.compile(rf"{PREFIX}-(?P<pid>\d+)-[0-9a-f]+-v\d+")


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A version and its bytes."""

    policy: PolicyVersion
    path: Path
    """Flat file; removed when newer versions have taken its place."""
    flat: Bytes
    """The same bytes, mapped; still valid after the file is removed."""


class Publisher:
    """Keeps the last ``keep`` versions; older ones are gone, and who asks for one is told what there is."""

    def __init__(self, directory: Path, *, run_id: str, keep: int = 2) -> None:
        self._directory = directory
        self._run_id = run_id
        self._keep = keep
        self._token = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._versions: dict[int, Published] = {}
        self._deltas: dict[tuple[int, int], bytes | None] = {}
        self._listeners: list[Callable[[PolicyVersion], object]] = []
        remove_leftovers(directory)

    def publish(self, tensors: Iterable[tuple[str, Any]], version: int, *, is_final: bool = False) -> PolicyVersion:
        """Write, digest and announce a version. Tensors are contiguous and on the CPU, tied ones given once."""
        path = self._directory / f"{PREFIX}-{os.getpid()}-{self._token}-v{version}"
        specs = _write(path, tensors)
        previous = self.latest()
        policy = PolicyVersion(
            version=version,
            tensors=tuple(specs),
            digest=manifest_digest(specs),
            parent_version=previous.policy.version if previous and previous.policy.version < version else None,
            published_unix_seconds=time.time(),
            run_id=self._run_id,
            is_final=is_final,
        )
        self._add(Published(policy, path, _map(path)))
        for listener in list(self._listeners):
            listener(policy)
        return policy

    def subscribe(self, listener: Callable[[PolicyVersion], object]) -> Callable[[], None]:
        """Call ``listener`` (in the publishing thread) with each new version; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def latest(self) -> Published | None:
        """The newest version; None before the first."""
        with self._lock:
            return self._versions[max(self._versions)] if self._versions else None

    def get(self, version: int) -> Published:
        """A version that is still kept. Raises UnknownName, which lists those."""
        with self._lock:
            if version in self._versions:
                return self._versions[version]
            kept = ", ".join(map(str, sorted(self._versions))) or "none yet"
        raise UnknownName(f"version: {version} is not held (held: {kept}); ask for the newest")

    def delta(self, base: int, version: int) -> bytes | None:
        """The difference between two kept versions; None when there is none smaller than a full copy."""
        with self._lock:
            if base not in self._versions or version not in self._versions:
                return None
            old, new = self._versions[base], self._versions[version]
            if (base, version) in self._deltas:
                return self._deltas[base, version]
        same = [(t.name, t.shape, t.dtype) for t in old.policy.tensors] == [
            (t.name, t.shape, t.dtype) for t in new.policy.tensors
        ]
        encoded = delta.encode(old.flat, new.flat, new.policy.tensors) if same else None
        with self._lock:
            self._deltas[base, version] = encoded
        return encoded

    def close(self) -> None:
        """Remove the files."""
        with self._lock:
            for published in self._versions.values():
                published.path.unlink(missing_ok=True)
            self._versions.clear()
            self._deltas.clear()

    def _add(self, published: Published) -> None:
        with self._lock:
            self._versions[published.policy.version] = published
            for old in sorted(self._versions)[: -self._keep]:
                self._versions.pop(old).path.unlink(missing_ok=True)
            self._deltas = {key: d for key, d in self._deltas.items() if set(key) <= set(self._versions)}


def _write(path: Path, tensors: Iterable[tuple[str, Any]]) -> list[TensorSpec]:
    specs: list[TensorSpec] = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        for name, tensor in tensors:
            spec, content = spec_of(name, tensor)
            file.write(content.data)
            specs.append(spec)
    return specs


def _map(path: Path) -> Bytes:
    with open(path, "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def remove_leftovers(directory: Path) -> None:
    """Remove weight files of processes that no longer live (killed before they could)."""
    for path in directory.glob(f"{PREFIX}-*"):
        match = _NAME.fullmatch(path.name)
        if match and not Path(f"/proc/{match['pid']}").exists():
            with contextlib.suppress(OSError):
                path.unlink()
                logger.info("removed %s, left behind by a dead process", path.name)
