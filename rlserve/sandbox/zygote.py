"""The service's end of a zygote: start it, ask it for boxes, close it.

``start`` and ``open`` wait for: the zygote's answer. unblocked by: the zygote, its death, or ANSWER_SECONDS.
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
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "HOME": "/tmp",
    # Numerical packages start a thread for each processor otherwise, and a box may have eight.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""All that a box knows of an environment."""
START_SECONDS = 120.0
ANSWER_SECONDS = 60.0
"""Of wall time: a zygote that is slow on a busy machine is no fault. One that dies is seen at once."""
MAX_ANSWER_BYTES = 4096
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Zygote:
    """A warm interpreter from which boxes are forked. Close it, or use it as a context manager."""

    def __init__(self, settings: Mapping[str, Any], *, python: str) -> None:
        """Start it with the interpreter ``python``. Raises Unavailable when the kernel refuses."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link = ours
        self.boxes = 0
        """Boxes opened so far."""
        try:
            self._process = subprocess.Popen(
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
            raise Unavailable(f"sandbox: its interpreter cannot be started: {error}") from error
        finally:
            theirs.close()
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
        """Its process id."""
        return int(self._process.pid)

    def num_processes(self) -> int:
        """Boxes that still run."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
            return len(children.read().split())
        return 0

    @property
    def resident_bytes(self) -> int:
        """Its memory; 0 when it is gone."""
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
        """Start a box. The caller closes ``links`` afterwards. Raises Unavailable when there is no answer."""
        pipes = Pipes.make(json.dumps(job).encode(), stdin)
        header = {"role": role, "limits": plain_limits(limits), "links": len(links)}
        try:
            socket.send_fds(self._link, [json.dumps(header).encode()], [*pipes.theirs, *links])
            message, descriptors = self._answer()
        except (OSError, Unavailable) as error:
            pipes.close_ours()
            raise Unavailable(f"sandbox: its zygote gave no box: {error}") from error
        finally:
            pipes.close_theirs()
        self.boxes += 1
        return Box(pid=message["pid"], pidfd=descriptors[0], pipes=pipes, limits=limits)

    def _answer(self) -> tuple[Mapping[str, Any], list[int]]:
        try:
            content, descriptors, _, _ = socket.recv_fds(self._link, MAX_ANSWER_BYTES, 1)
        except TimeoutError:
            raise Unavailable(f"sandbox: its zygote (pid {self.pid}) does not answer") from None
        except OSError as error:
            raise Unavailable(f"sandbox: its zygote is lost: {error}") from error
        if not content:
            raise Unavailable(f"sandbox: its zygote ended (exit code {self._process.poll()})")
        message = json.loads(content)
        if "error" in message:
            raise Unavailable(f"sandbox: {message['error']}")
        return message, list(descriptors)


def plain_limits(limits: Limits) -> dict[str, float]:
    """As a box's header carries them."""
    plain = {name: getattr(limits, name) for name in Limits.__dataclass_fields__}
    return plain | {"longest_seconds": limits.longest_seconds, "kernel_seconds": limits.kernel_seconds}
