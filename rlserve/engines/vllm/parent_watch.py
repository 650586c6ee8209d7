"""Ends the processes of an engine with the rollout worker that owns them, however the worker ends.

A signal at the parent's death (``PR_SET_PDEATHSIG``) is not enough: it is sent when the *thread* that forked ends, and
only to direct children.
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
"""Where the kernel has no pidfd (before Linux 5.3). Any value will do: an orphan may live that long."""


def follow_owner() -> None:
    """Watch the owner named in the environment. Does nothing in the owner itself, and where none is named."""
    owner = int(os.environ.get(OWNER_VARIABLE, "0"))
    if owner in (0, os.getpid()) or any(t.name == THREAD_NAME for t in threading.enumerate()):
        return
    threading.Thread(target=_end_with, args=(owner,), name=THREAD_NAME, daemon=True).start()


def _end_with(owner: int) -> None:
    wait_for_end(owner)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_end(pid: int) -> None:
    """Return once no process ``pid`` runs; it need not be a child."""
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
