"""Tier "bubblewrap": ``bwrap`` starts each box, for machines where only it may make namespaces.

Each box takes the start of an interpreter longer than with a warm zygote. Otherwise all is the same: ``inside/cold.py``
replaces the zygote's forked child, and reaper and runner are those of the other tiers.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlserve.errors import Unavailable
from rlserve.sandbox.box import Box, Pipes
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.walls.tiers import bubblewrap
from rlserve.sandbox.zygote import ENVIRONMENT, Zygote, plain_limits

INSIDE = Path(__file__).parents[1] / "inside"


class BubblewrapZygote(Zygote):
    """A zygote without a process of its own: ``open`` starts a new interpreter for each box."""

    def __init__(self, settings: Mapping[str, Any], *, python: str) -> None:
        """Find ``bwrap``; raises Unavailable when it is not installed."""
        # The base class starts its process in __init__, which is therefore not called.
        found = bubblewrap()
        if found is None:
            raise Unavailable("sandbox: bwrap is not installed")
        self._bwrap, self._python = found, python
        # Popen changes the user before bwrap starts; in its user namespace the box has nothing left to change.
        self._settings = {**settings, "uid_base": 0}
        self._identity = _identity(settings["uid_base"])
        self._running: list[subprocess.Popen[bytes]] = []
        self.boxes = 0

    @property
    def pid(self) -> int:
        """There is no process: 0."""
        return 0

    @property
    def resident_bytes(self) -> int:
        """There is no process: 0."""
        return 0

    def num_processes(self) -> int:
        """Number of boxes that still run."""
        self._running = [process for process in self._running if process.poll() is None]
        return len(self._running)

    def close(self) -> None:
        """Kill every box that is still open."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running = []

    def open(
        self, role: str, job: Mapping[str, Any], limits: Limits, stdin: bytes = b"", links: Sequence[int] = ()
    ) -> Box:
        """Start a box in the given role. Raises Unavailable when it fails."""
        self.num_processes()  # reaps the boxes that ended
        pipes = Pipes.make(json.dumps(job).encode(), stdin)
        header = {"role": role, "limits": plain_limits(limits), "links": len(links)}
        descriptors = [*pipes.theirs, *links]
        command = [*self._walls(limits), self._python, "-s", "-S", "-P", str(INSIDE / "cold.py")]
        try:
            process = subprocess.Popen(
                [*command, json.dumps(header), json.dumps(self._settings), json.dumps(list(descriptors))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=[*descriptors, *([self._settings["cgroup"]] if self._settings["cgroup"] is not None else [])],
                start_new_session=True,
                **self._identity,
            )
        except OSError as error:
            pipes.close_ours()
            raise Unavailable(f"sandbox: cannot start bwrap: {error}") from error
        finally:
            pipes.close_theirs()
        self._running.append(process)
        self.boxes += 1
        return Box(pid=process.pid, pidfd=os.pidfd_open(process.pid), pipes=pipes, limits=limits)

    def _walls(self, limits: Limits) -> list[str]:
        arguments = [self._bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
        arguments += ["--new-session", "--clearenv", "--cap-drop", "ALL"]
        for name, value in ENVIRONMENT.items():
            arguments += ["--setenv", name, value]
        for path in self._settings["readable"]:
            # A link stays one: where /lib is a link to usr/lib, libraries find each other by both names.
            if os.path.islink(path):
                arguments += ["--symlink", os.readlink(path), path]
            elif os.path.exists(path):
                arguments += ["--ro-bind", path, path]
        for source, place in self._settings["places"].items():
            arguments += ["--ro-bind", source, place]
        arguments += ["--ro-bind", self._python, self._python, "--ro-bind", str(INSIDE), str(INSIDE)]
        # bwrap mounts a writable /dev without a size limit: /dev/shm gets a small one, and the rest becomes read-only.
        arguments += ["--dev", "/dev", "--size", "65536", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
        return [*arguments, "--size", str(limits.file_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--"]


def _identity(uid: int) -> dict[str, Any]:
    """Popen arguments that drop root's powers before bwrap starts."""
    return {"user": uid, "group": uid, "extra_groups": []} if uid else {}
