"""A host without the run's files: a network namespace with an address of its own, another HOME, hidden directories."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE, THERE = "10.77.{net}.1", "10.77.{net}.2"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class BadLink:
    """Quality of a link, see ``bad_link.py``."""

    delay_seconds: float
    """One way."""
    loss: float
    mbit: float


@dataclass(frozen=True)
class BareHost:
    """How to start a process there."""

    near: str
    """IP of this machine towards it."""
    far: str
    """Its own IP."""
    home: Path
    prefix: tuple[str, ...]
    link: "subprocess.Popen[bytes] | None" = None

    def cut(self) -> None:
        """Let nothing through the link for 5 s."""
        assert self.link is not None
        self.link.send_signal(signal.SIGUSR1)

    def environment(self) -> dict[str, str]:
        """Nothing of this process's environment but the way to the programs."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def start(self, *words: str, environment: Mapping[str, str] | None = None, log: Path) -> "subprocess.Popen[bytes]":
        """``rlserve WORDS`` there."""
        clean = {**self.environment(), **(environment or {})}
        with log.open("ab") as file:
            return subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "rlserve.cli.main", *words],
                cwd=self.home,
                env=clean,
                stdout=file,
                stderr=file,
            )


@contextmanager
def bare_host(home: Path, *, hidden: Path, link: BadLink | None = None) -> Iterator[BareHost]:
    """A host on which ``hidden`` is empty, behind ``link``.

    Without the right to make namespaces: this host, from another HOME.
    """
    home.mkdir(exist_ok=True)
    # Several tests at once: a network of its own each.
    number = uuid.uuid4().int % 250 + 1
    name, near, far = f"rlserve-{number}", HERE.format(net=number), THERE.format(net=number)
    # Shared memory, too: weights would come by a file there, and not over the link.
    inside = f'mount -t tmpfs none "{hidden}" && mount -t tmpfs none /dev/shm && exec "$@"'
    hide = ("unshare", "-m", "sh", "-c", inside, "sh")
    direct = (
        f"ip link add jn{number} type veth peer name jf{number}",
        f"ip link set jf{number} netns {name}",
        f"ip addr add {near}/30 dev jn{number}",
        f"ip link set jn{number} up",
        f"ip -n {name} addr add {far}/30 dev jf{number}",
        f"ip -n {name} link set jf{number} up",
        f"ip -n {name} link set lo up",
    )
    carrying: subprocess.Popen[bytes] | None = None
    try:
        if os.geteuid() != 0 or not _runs("ip", "netns", "add", name):
            yield BareHost("127.0.0.1", "127.0.0.1", home, ())
            return
        if link is not None:
            quality = (str(link.delay_seconds), str(link.loss), str(link.mbit))
            script = str(Path(__file__).parent / "processes" / "bad_link.py")
            carrying = subprocess.Popen([sys.executable, script, name, near, far, *quality], stdout=subprocess.PIPE)
            assert carrying.stdout is not None and carrying.stdout.readline() == b"ready\n"
        else:
            for command in direct:
                assert _runs(*command.split()), command
        yield BareHost(near, far, home, ("ip", "netns", "exec", name, *hide), carrying)
    finally:
        if carrying is not None:
            carrying.kill()
            carrying.wait()
        _runs("ip", "netns", "del", name)
        _runs("ip", "link", "del", f"jn{number}")


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except OSError:
        return False
