"""The isolation tiers, strongest first, and how each starts its boxes.

=========== ======================================================== =============================================
tier        needs                                                    walls
=========== ======================================================== =============================================
namespaces  root, or unprivileged user namespaces                    own pid, mount, net, ipc, uts namespaces; a
                                                                     root of libraries, read-only; scratch of limited
                                                                     size; own user; Landlock; seccomp; limits
bubblewrap  ``bwrap``, where only it may make namespaces             the same, started anew for each program
landlock    Linux with Landlock, no privilege                        no writable file, no new process, no socket, no
                                                                     signal; seccomp; limits
=========== ======================================================== =============================================
"""

import os
import random
import shutil
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from rlserve.sandbox.seccomp import filter_bytes

UID_BASES = range(0x40000000, 0x50000000, 4096)
"""Users of boxes; far from what a system gives out, a block of 4096 for each zygote."""


class Tier(StrEnum):
    """How untrusted code is isolated, strongest first."""

    NAMESPACES = "namespaces"
    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"

    def is_at_least(self, other: "Tier") -> bool:
        """Whether this one is as strong as ``other`` or stronger."""
        order = list(Tier)
        return order.index(self) <= order.index(other)


def settings_of(tier: Tier, *, python: str, cgroup: int | None = None) -> Mapping[str, Any]:
    """What a zygote of this tier is told. ``cgroup`` is a descriptor of the ``cgroup.procs`` for its boxes.

    Raises NotImplementedError on an architecture whose system calls are not known.
    """
    root = os.geteuid() == 0
    return {
        "namespaces": tier is Tier.NAMESPACES,
        "single_process": tier is Tier.LANDLOCK,
        "readable": readable_paths(python),
        "seccomp": filter_bytes(single_process=tier is Tier.LANDLOCK).hex(),
        "landlock": True,
        "cgroup": cgroup,
        "shared_uid": not root,
        "uid_base": random.SystemRandom().choice(UID_BASES) if root else 0,
    }


def readable_paths(python: str) -> list[str]:
    """What an interpreter needs: its own library, and the shared ones of the system."""
    prefix = os.path.dirname(os.path.dirname(python))
    paths = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache"]
    own = f"{prefix}/lib"
    return [*paths, *([] if any(own == path or own.startswith(path + "/") for path in paths) else [own])]


def bubblewrap() -> str | None:
    """Path of ``bwrap``; None when it is not installed."""
    return shutil.which("bwrap")


def real_python() -> str:
    """This interpreter itself, not a virtual environment's link or a version manager's script."""
    return os.path.realpath(sys.executable)
