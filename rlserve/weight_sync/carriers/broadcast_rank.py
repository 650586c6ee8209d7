"""One rank of a broadcast group: a process of its own, which ends with its group.

A collective operation cannot be called off: a rank waits for one that died or stands still until its own timeout, and
NCCL may wait longer. So that no learner and no worker ever waits in one, each rank is a process that is killed when
its group is given up; its connections, ports and GPU memory end with it. It comes from a fork server that has imported
torch, and ends by itself when the process that started it does.

Groups are torch.distributed's: NCCL between GPUs, gloo between processors, by the same calls. vLLM's packed NCCL engine
packs many tensors into few messages; a version is one flat file already, and is broadcast piece by piece.
"""

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from mmap import mmap
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlserve.errors import WeightsMismatch
from rlserve.weight_sync.carriers.base import Interrupted
from rlserve.weight_sync.manifest import Bytes, chunk_digest
from rlserve.weight_sync.mapped_file import reading

if TYPE_CHECKING:
    from torch import Tensor

PIECE_BYTES = 2**24
"""Broadcast at once: a fast fabric is busy with it for a millisecond, and a slow one shows progress each second."""
PROGRESS_SECONDS = 20.0
"""Longest wait of a rank for the next piece, or for all to join. Below the 30 s in which a worker wants to see a chunk:
a group that stands still is given up before its workers give up the learner."""
GLOO, NCCL = "gloo", "nccl"


@dataclass(frozen=True, slots=True)
class Place:
    """A rank's place in a group."""

    group: str
    """Name that no other group has; not to be guessed, since it opens the group to who can reach the address."""
    backend: str
    address: str
    """Of rank 0, which the others meet there."""
    port: int
    """0: rank 0 takes a free one."""
    rank: int
    size: int
    """Ranks of the group."""

    def to_wire(self) -> str:
        """For ``from_wire``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_wire(cls, wire: str) -> "Place":
        """Raises WeightsMismatch when it is malformed."""
        try:
            given = json.loads(wire)
            place = cls(**{name: kind(given[name]) for name, kind in cls.__annotations__.items()})
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsMismatch(f"locator: {wire[:80]!r} is no place in a group ({error!r})") from None
        if place.backend not in (GLOO, NCCL) or not 0 <= place.rank < place.size or not 0 < place.port < 2**16:
            raise WeightsMismatch(f"locator: {wire[:80]!r} is no place in a group")
        return place


class BroadcastRank:
    """The process of one rank, as its owner sees it. All calls block; each raises Interrupted when the group broke.

    For example, at rank 0; the others have no need of ``port``::

        rank = BroadcastRank(Place("c0ffee", GLOO, "10.0.0.5", 0, rank=0, size=3))
        port = rank.port()               # for the others
        rank.joined()
        rank.begin(path, size)           # their file gets the bytes of this one
        digests = [rank.digest() for _ in range(num_pieces(size))]
        rank.close()
    """

    def __init__(self, place: Place) -> None:
        """Starts the process."""
        self.place = place
        start_fork_server()
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(place, theirs, PIECE_BYTES, PROGRESS_SECONDS),
            name=f"broadcast-{place.rank}",
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @property
    def process_id(self) -> int:
        """Of the rank's process."""
        return self._process.pid or 0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.is_alive()

    def port(self) -> int:
        """Where rank 0 is met."""
        return int(self._next("port"))

    def joined(self) -> None:
        """Returns once all ranks have met."""
        self._next("joined")

    def begin(self, path: Path, size: int) -> None:
        """Broadcast this file from rank 0, or write what comes to it."""
        with _broken():
            self._pipe.send_bytes(json.dumps({"path": str(path), "size": size}).encode())

    def digest(self) -> str:
        """Of the next piece, once this rank has it."""
        return str(self._next("digest"))

    def close(self) -> None:
        """End the process, whatever it waits for. Safe to call twice, and beside a call that waits."""
        self._process.kill()
        self._process.join()

    def _next(self, key: str) -> Any:
        with _broken():
            if not self._pipe.poll(PROGRESS_SECONDS):
                raise Interrupted(f"broadcast: rank {self.place.rank} made no progress for {PROGRESS_SECONDS:g} s")
            said = json.loads(self._pipe.recv_bytes())
        if "error" in said:
            raise Interrupted(f"broadcast: rank {self.place.rank}: {said['error']}")
        return said[key]


def start_fork_server() -> None:
    """Begin to import torch where ranks come from; who knows that there will be some calls it early."""
    # Without effect where a fork server runs already: vLLM's, which has imported torch too.
    multiprocessing.set_forkserver_preload([__name__, "torch.distributed"])
    forkserver.ensure_running()


def num_pieces(size: int) -> int:
    """Pieces of a version of this many bytes."""
    return -(-size // PIECE_BYTES)


def listening(address: str) -> socket.socket:
    """A socket of this host. Raises OSError for an address that belongs to none of its networks."""
    family, *_, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    return socket.create_server(place[:2], family=family)


@contextlib.contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        raise Interrupted(f"broadcast: a rank's process ended ({error!r})") from error


def _serve(place: Place, pipe: Connection, piece_bytes: int, seconds: float) -> None:
    """Main function of the process."""
    # Ctrl-C reaches the whole terminal; this process ends with its owner.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(pipe, orders), daemon=True).start()

    def say(**said: Any) -> None:
        pipe.send_bytes(json.dumps(said).encode())

    try:
        group = _joined(place, timedelta(seconds=seconds), say)
        say(joined=True)
        while True:
            order = orders.get()
            with _opened(Path(order["path"]), order["size"], writable=place.rank > 0) as flat:
                for digest in _broadcast(group, place, flat, piece_bytes):
                    say(digest=digest)
    except Exception as error:  # whatever it was, the group is of no use any more
        with contextlib.suppress(OSError):
            # gloo goes on with advice.
            say(error=f"{type(error).__name__}: {str(error).split(' This is typically')[0][:500]}")
    os._exit(0)  # without waiting for the group's own threads


def _listen(pipe: Connection, orders: "queue.Queue[dict[str, Any]]") -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            orders.put(json.loads(pipe.recv_bytes()))
    os._exit(0)  # the owner is gone


def _joined(place: Place, timeout: timedelta, say: Any) -> Any:
    """The group, once all ranks are in it."""
    import torch.distributed

    # Its process groups themselves, without the world that torch.distributed keeps: they are not typed.
    dist: Any = torch.distributed
    port, listener = place.port, -1
    if place.rank == 0:
        server = listening(place.address)
        port, listener = server.getsockname()[1], server.detach()
        say(port=port)
    store = dist.TCPStore(
        place.address,
        port,
        is_master=place.rank == 0,
        timeout=timeout,
        wait_for_workers=False,
        # Otherwise it listens on all networks of the host.
        master_listen_fd=listener if place.rank == 0 else None,
    )
    prefixed = dist.PrefixStore(place.group, store)
    if place.backend == NCCL:
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return dist.ProcessGroupNCCL(prefixed, place.rank, place.size, options)
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timeout
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=_facing(place, port))]
    return dist.ProcessGroupGloo(prefixed, place.rank, place.size, options)


def _facing(place: Place, port: int) -> str:
    """This host's address on the network of rank 0."""
    if place.rank == 0:
        return place.address
    family, *_, remote = socket.getaddrinfo(place.address, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(remote)  # sends nothing
        return str(probe.getsockname()[0])


def _broadcast(group: Any, place: Place, flat: Bytes, piece_bytes: int) -> Iterator[str]:
    """The digest of each piece, once this rank has sent or received it."""
    import torch

    whole = torch.from_numpy(flat)
    device = torch.device("cuda" if place.backend == NCCL else "cpu")
    for start in range(0, flat.size, piece_bytes):
        piece = whole[start : start + piece_bytes]
        # On a processor this is the piece itself.
        there: Tensor = piece.to(device)
        work = group.broadcast(there, 0)
        # Rank 0 digests while it sends.
        digest = chunk_digest(piece.numpy()) if place.rank == 0 else ""
        work.wait()
        if device.type == "cuda":
            torch.cuda.synchronize()
            if place.rank:
                piece.copy_(there)
        yield digest or chunk_digest(piece.numpy())


@contextlib.contextmanager
def _opened(path: Path, size: int, *, writable: bool) -> Iterator[Bytes]:
    if not writable:
        with reading(path) as flat:
            yield flat
        return
    with open(path, "r+b") as file:
        yield np.frombuffer(mmap(file.fileno(), size), dtype=np.uint8)
