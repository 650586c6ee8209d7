"""Tier "bubblewrap": each box is started anew by ``bwrap``, for machines where only it may make namespaces.

Slower than a warm zygote by the start of an interpreter, otherwise the same: ``inside/cold.py`` takes the place of
the zygote's forked child, and the reaper and the runner are those of the other tiers.
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
from rlserve.sandbox.tiers import bubblewrap
from rlserve.sandbox.zygote import ENVIRONMENT, Zygote, plain_limits

INSIDE = Path(__file__).parent / "inside"


class BubblewrapZygote(Zygote):
    """Has no process of its own; ``open`` starts one for each box."""

    def __init__(self, settings: Mapping[str, Any], *, python: str) -> None:
        """Raises Unavailable when there is no ``bwrap``."""
        found = bubblewrap()
        if found is None:
            raise Unavailable("sandbox: bwrap is not installed")
        self._bwrap, self._python = found, python
        self._settings = {**settings, "uid_base": 0}
        self._identity = _identity(settings["uid_base"])
        self._running: list[subprocess.Popen[bytes]] = []
        self.boxes = 0

    @property
    def pid(self) -> int:
        """None has a process id: 0."""
        return 0

    @property
    def resident_bytes(self) -> int:
        """Nothing stays: 0."""
        return 0

    def num_processes(self) -> int:
        """Boxes that still run."""
        self._running = [process for process in self._running if process.poll() is None]
        return len(self._running)

    def close(self) -> None:
        """End every box that is still open."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running = []

    def open(
        self, role: str, job: Mapping[str, Any], limits: Limits, stdin: bytes = b"", links: Sequence[int] = ()
    ) -> Box:
        """Start a box. Raises Unavailable when it cannot be started."""
        self.num_processes()  # reaps those that ended
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
            raise Unavailable(f"sandbox: bwrap cannot be started: {error}") from error
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
            if os.path.islink(path):
                arguments += ["--symlink", os.readlink(path), path]
            elif os.path.exists(path):
                arguments += ["--ro-bind", path, path]
        for source, place in self._settings["places"].items():
            arguments += ["--ro-bind", source, place]
        arguments += ["--ro-bind", self._python, self._python, "--ro-bind", str(INSIDE), str(INSIDE)]
        # bwrap's /dev is writable and has no size of its own.
        arguments += ["--dev", "/dev", "--size", "65536", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
        return [*arguments, "--size", str(limits.file_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--"]


def _identity(uid: int) -> dict[str, Any]:
    """Popen arguments that give root's powers up before bwrap starts."""
    return {"user": uid, "group": uid, "extra_groups": []} if uid else {}
