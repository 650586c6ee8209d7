"""The service's end of a zygote: starts it, asks it for boxes, closes it.

``Zygote()`` and ``open`` wait for: the zygote's answer. unblocked by: the zygote, its death, START_SECONDS or
ANSWER_SECONDS.
"""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlserve.errors import Unavailable
from rlserve.sandbox.box import Box, Pipes
from rlserve.sandbox.limits import Limits

SCRIPT = Path(__file__).parent / "inside" / "zygote.py"
ENVIRONMENT = {
    # A program that prints a set must print the same on every run, or its verdict would vary.
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "HOME": "/tmp",
    # Numerical packages start a thread for each processor otherwise, and a box may have eight.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""The whole environment of a box."""
START_SECONDS = 120.0
"""A start takes about a second, and took 4 s on a busy machine. Any value of this size will do."""
ANSWER_SECONDS = 60.0
"""A fork takes milliseconds, but this is wall time, and a zygote that is slow on a busy machine is not a fault. One
that dies closes its socket and is noticed at once."""
MAX_ANSWER_BYTES = 4096
"""Any value of this size will do: an answer is a process id or one error line."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Zygote:
    """A warm interpreter that forks a box for each request. Close it, or use it as a context manager.

    For example::

        settings = settings_of(Tier.NAMESPACES, python=real_python())
        with Zygote(settings, python=real_python()) as zygote:            # imports what small programs use, once
            box = zygote.open("program", {"source": "print(1)"}, Limits())    # a fork: some milliseconds
            watch([box])
            box.close()
        # Closed: the zygote is dead, and with it every box that was still open.
    """

    def __init__(self, settings: Mapping[str, Any], *, python: str) -> None:
        """Start it with the interpreter ``python``. Raises Unavailable when the kernel refuses."""
        # SEQPACKET keeps messages apart, so that a request and its descriptors always arrive together.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link = ours
        self.boxes = 0
        """Number of boxes opened so far."""
        try:
            self._process = subprocess.Popen(
                # No user site, no site, no script folder on the path: a box imports only what the settings name.
                [python, "-s", "-S", "-P", str(SCRIPT), str(os.getpid()), json.dumps(settings)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=[fd for fd in [settings.get("cgroup")] if fd is not None],
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise Unavailable(f"sandbox: cannot start its interpreter {python}: {error}") from error
        finally:
            theirs.close()  # else our own copy would keep the socket open, and the zygote's death would go unnoticed
        self._link.settimeout(START_SECONDS)
        try:
            self._answer()
        except Unavailable:
            self.close()
            raise
        self._link.settimeout(ANSWER_SECONDS)

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The zygote's process id."""
        return int(self._process.pid)

    def num_processes(self) -> int:
        """Number of boxes that still run."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
            return len(children.read().split())
        return 0

    @property
    def resident_bytes(self) -> int:
        """The zygote's resident memory; 0 when it is gone."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/statm") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES
        return 0

    def close(self) -> None:
        """Kill it, and with it every box that is still open."""
        self._process.kill()
        self._process.wait()
        self._link.close()

    def open(
        self, role: str, job: Mapping[str, Any], limits: Limits, stdin: bytes = b"", links: Sequence[int] = ()
    ) -> Box:
        """Start a box in the given role. The caller closes ``links`` afterwards. Raises Unavailable when it fails."""
        pipes = Pipes.make(json.dumps(job).encode(), stdin)
        header = {"role": role, "limits": plain_limits(limits), "links": len(links)}
        try:
            socket.send_fds(self._link, [json.dumps(header).encode()], [*pipes.theirs, *links])
            message, descriptors = self._answer()
        except (OSError, Unavailable) as error:
            pipes.close_ours()
            raise Unavailable(f"sandbox: its zygote opened no box: {str(error).removeprefix('sandbox: ')}") from error
        finally:
            pipes.close_theirs()
        self.boxes += 1
        return Box(pid=message["pid"], pidfd=descriptors[0], pipes=pipes, limits=limits)

    def _answer(self) -> tuple[Mapping[str, Any], list[int]]:
        try:
            content, descriptors, _, _ = socket.recv_fds(self._link, MAX_ANSWER_BYTES, 1)
        except TimeoutError:
            # A late answer would be taken for that of the next request; the sandbox replaces the zygote after this.
            raise Unavailable(f"sandbox: its zygote (pid {self.pid}) did not answer in time") from None
        except OSError as error:
            raise Unavailable(f"sandbox: lost its zygote: {error}") from error
        if not content:
            raise Unavailable(f"sandbox: its zygote ended (exit code {self._process.poll()})")
        message = json.loads(content)
        if "error" in message:
            raise Unavailable(f"sandbox: {message['error']}")
        return message, list(descriptors)


def plain_limits(limits: Limits) -> dict[str, float]:
    """The limits in the form that a box's header carries."""
    plain = {name: getattr(limits, name) for name in Limits.__dataclass_fields__}
    return plain | {"longest_seconds": limits.longest_seconds, "kernel_seconds": limits.kernel_seconds}
