"""No orphans: the processes of an engine end when the rollout worker that owns them does, however it does.

A signal at the parent's death (``PR_SET_PDEATHSIG``) would not do: it comes when the *thread* that forked
ends, and only to direct children.
"""

import os
import select
import signal
import threading
import time

OWNER_VARIABLE = "RLSERVE_ENGINE_OWNER"
"""Process id of the rollout worker; every process of its engine ends when that one does."""
THREAD_NAME = "rlserve-deathwatch"
POLL_SECONDS = 0.5


def follow_owner() -> None:
    """Watch the owner named in the environment; a no-op in the owner itself and where there is none."""
    owner = int(os.environ.get(OWNER_VARIABLE, "0"))
    if owner in (0, os.getpid()) or any(t.name == THREAD_NAME for t in threading.enumerate()):
        return
    threading.Thread(target=_end_with, args=(owner,), name=THREAD_NAME, daemon=True).start()


def _end_with(owner: int) -> None:
    wait_for_end(owner)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_end(pid: int) -> None:
    """Return once no process ``pid`` runs. Any process will do, not only a child."""
    if not hasattr(os, "pidfd_open"):
        _poll(pid)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll()


def _poll(pid: int) -> None:
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(POLL_SECONDS)
