"""The isolation tiers, strongest first, and the zygote settings of each.

=========== ======================================================== =============================================
tier        needs                                                    walls
=========== ======================================================== =============================================
namespaces  root, or unprivileged user namespaces                    own pid, mount, net, ipc, uts namespaces; a
                                                                     root of libraries, read-only; scratch of limited
                                                                     size; own user; Landlock; seccomp; limits
bubblewrap  ``bwrap``, where only it may make namespaces             the same, with a new interpreter for each program
landlock    Linux with Landlock, no privilege                        no writable file, no new process, no socket, no
                                                                     signal; seccomp; limits
=========== ======================================================== =============================================
"""

import os
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from rlserve.sandbox.walls.seccomp import filter_bytes

PATHS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache")
"""The shared libraries of the system: a box can read these, and of the interpreter its own library."""
PACKAGES = "/packages"
"""Where a box with a root of its own finds third-party packages: their real place may lie below its scratch
directory."""
SCRATCH = "/tmp"
UID_BASES = range(0x40000000, 0x50000000, 4096)
"""First user ids of blocks of 4096, one block a zygote and one id a box. The range lies far above system users, login
users and their subordinate ids; the block is drawn at random, so that zygotes of several services do not share one."""


class Tier(StrEnum):
    """How untrusted code is isolated, strongest first."""

    NAMESPACES = "namespaces"
    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"

    def is_at_least(self, other: "Tier") -> bool:
        """Whether this one is as strong as ``other`` or stronger."""
        order = list(Tier)
        return order.index(self) <= order.index(other)


def settings_of(
    tier: Tier, *, python: str, packages: Sequence[str] = (), cgroup: int | None = None
) -> Mapping[str, Any]:
    """The settings of a zygote of this tier, as JSON can carry them.

    ``cgroup`` is a descriptor of the ``cgroup.procs`` for its boxes. ``packages`` are directories of third-party
    packages; boxes with a root of their own see them below PACKAGES. Raises NotImplementedError on an unknown
    architecture.
    """
    root = os.geteuid() == 0
    library = _own_library(python)
    # An interpreter below /tmp (a virtual environment of a test, say) would vanish behind the scratch directory.
    outside = [*packages, *([library] if library and _is_hidden(library) else [])]
    places = {path: path if tier is Tier.LANDLOCK else f"{PACKAGES}/{n}" for n, path in enumerate(outside)}
    return {
        "namespaces": tier is Tier.NAMESPACES,
        "single_process": tier is Tier.LANDLOCK,
        "readable": [*PATHS, *([library] if library and library not in outside else [])],
        "places": places,
        "packages": [places[path] for path in packages],
        "seccomp": filter_bytes(single_process=tier is Tier.LANDLOCK).hex(),
        "landlock": True,
        "cgroup": cgroup,
        # RLIMIT_NPROC counts processes by user: only root can give each box a user of its own.
        "shared_uid": not root,
        "uid_base": random.SystemRandom().choice(UID_BASES) if root else 0,
    }


def _own_library(python: str) -> str:
    """The interpreter's own library; empty where PATHS holds it already."""
    own = f"{os.path.dirname(os.path.dirname(python))}/lib"
    return "" if any(own == path or own.startswith(path + "/") for path in PATHS) else own


def _is_hidden(path: str) -> bool:
    """Whether a box's scratch directory would cover it."""
    return path == SCRATCH or path.startswith(SCRATCH + "/")


def bubblewrap() -> str | None:
    """The path of ``bwrap``; None when it is not installed."""
    return shutil.which("bwrap")


def real_python() -> str:
    """The path of this interpreter itself: no virtual environment's link, no version manager's script."""
    return os.path.realpath(sys.executable)
