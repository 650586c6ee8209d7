"""A network link with delay, loss and a rate: ``bad_link.py NAMESPACE NEAR FAR DELAY LOSS MBIT`` (seconds one way).

It carries the packets between two TUN devices, one here and one in the network namespace, so that every connection
between the two passes it, with the kernel's own TCP at both ends. Prints ``ready``; SIGUSR1 cuts the link for 5 s.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
CLONE_NEWNET = 0x40000000  # linux/sched.h
CUT_SECONDS = 5.0
"""Longer than the heartbeat timeout of the hub, 3 s: every actor behind the link counts as dead meanwhile."""
BUFFER_SECONDS = 0.2  # of a router: more waits in no queue


def enter(namespace: int) -> None:
    """``os.setns``, which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def tun(name: str, own: str, other: str, namespace: str = "") -> int:
    """A TUN device, in a namespace or here, as a descriptor that reads and writes packets."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    if namespace:
        enter(os.open(f"/run/netns/{namespace}", os.O_RDONLY))
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        for command in (f"ip addr add {own} peer {other} dev {name}", f"ip link set {name} up", "ip link set lo up"):
            subprocess.run(command.split(), check=True)
    finally:
        enter(here)
    return descriptor


class Direction:
    """The packets on their way one way: first at the rate, then by the delay."""

    def __init__(self, into: int, delay: float, loss: float, bytes_per_second: float) -> None:
        self._into, self._delay, self._loss, self._rate = into, delay, loss, bytes_per_second
        self._under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        self._free_at = 0.0

    def take(self, packet: bytes, now: float) -> None:
        """Send a packet, or lose it."""
        start = max(now, self._free_at)
        if start - now > BUFFER_SECONDS or random.random() < self._loss:
            return
        self._free_at = start + len(packet) / self._rate
        self._under_way.append((self._free_at + self._delay, packet))

    def deliver(self, now: float) -> float:
        """Hand out what has arrived; returns when the next one does."""
        while self._under_way and self._under_way[0][0] <= now:
            with contextlib.suppress(OSError):  # the device's queue is full: a loss
                os.write(self._into, self._under_way.popleft()[1])
        return self._under_way[0][0] if self._under_way else now + 1.0


def main(namespace: str, near: str, far: str, delay: str, loss: str, mbit: str) -> None:
    random.seed(0)
    suffix = near.split(".")[2]
    here, there = tun(f"bn{suffix}", near, far), tun(f"bf{suffix}", far, near, namespace)
    rate = float(mbit) * 1e6 / 8
    quality = (float(delay), float(loss), rate)
    ways = {here: Direction(there, *quality), there: Direction(here, *quality)}
    cut_until = 0.0

    def cut(number: int, frame: object) -> None:
        nonlocal cut_until
        cut_until = time.monotonic() + CUT_SECONDS

    signal.signal(signal.SIGUSR1, cut)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        due = min(way.deliver(now) for way in ways.values())
        readable, _, _ = select.select(list(ways), [], [], max(due - time.monotonic(), 0.0))
        now = time.monotonic()
        for descriptor in readable:
            packet = os.read(descriptor, 65536)
            if now >= cut_until:
                ways[descriptor].take(packet, now)


if __name__ == "__main__":
    main(*sys.argv[1:])
