"""Identity of this machine, and the path of its shared memory."""

import uuid
from functools import cache
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


@cache
def host_id() -> str:
    """An id that is equal for two processes on one running kernel.

    They may still not see each other's files (containers, other users), so a receiver of a path tries to open it.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no /proc: an id of its own, so that no file is ever offered
        return uuid.uuid4().hex
