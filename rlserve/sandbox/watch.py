"""Watches boxes: reads what they write and kills those that exceed a limit.

The CPU limit holds for each process, by the kernel's exact account; the limit that the kernel enforces by itself counts
in ticks and is a second line. The wall limit counts time as :mod:`rlserve.processor_time` does: it leaves out the waits
for a processor of all boxes that talk with each other, so that no program fails because the machine is busy. A box that
waits so long that it would block the programs behind it is given up without a judgement (``Ending.STARVED``), unless
its own processes kept each other waiting.
"""

import os
import select
import time
from collections.abc import Collection, Iterable, Sequence

from rlserve.processor_time import READ_EVERY_SECONDS, CountedTime, busiest_process
from rlserve.sandbox.box import KEPT_STDERR_BYTES, MAX_STATUS_BYTES, REAP_SECONDS, Box, Channel, Ending

SHORTEST_WAIT_SECONDS = 0.01
"""Least time between two readings near a limit: a reading takes about a millisecond, so that watching takes a tenth of
a processor at most."""
READ_BYTES = 65536
"""The default size of a pipe: one call can empty it."""


def time_of(boxes: Iterable[Box]) -> CountedTime:
    """One account for boxes that wait for each other, from when the first of them was opened."""
    boxes = list(boxes)
    return CountedTime(*(box.pid for box in boxes), born=min(box.started for box in boxes))


def watch(
    boxes: Iterable[Box],
    channels: Iterable[Channel] = (),
    *,
    until_closed: Channel | None = None,
    account: CountedTime | None = None,
) -> None:
    """Read until every box ended, or until ``until_closed`` is closed; kill boxes that exceed a limit.

    waits for: output and ends of the boxes. unblocked by: their limits, at most REAP_SECONDS after the kill.
    """
    boxes, channels = list(boxes), list(channels)
    account = account or time_of(boxes)
    poller = select.poll()
    handlers: dict[int, _Reader] = {box.pipes.stdout: _Stdout(box) for box in boxes}
    handlers |= {box.pipes.stderr: _Stderr(box) for box in boxes}
    handlers |= {box.pipes.control: _Control(box) for box in boxes}
    handlers |= {channel.descriptor: _Report(channel) for channel in channels}
    for descriptor in handlers:
        poller.register(descriptor, select.POLLIN)
    # Standard error is not waited for: it only explains, and a box is over when its output and its report are.
    running = {descriptor for box in boxes for descriptor in (box.pipes.control, box.pipes.stdout)}
    next_reading = _next_reading(boxes, account)
    while running and not (until_closed and until_closed.closed):
        now = time.monotonic()
        if now >= next_reading:
            _enforce(boxes, account, now)
            next_reading = _next_reading(boxes, account)
        for box in boxes:
            if now >= box.killed_at + REAP_SECONDS:
                running -= {box.pipes.control, box.pipes.stdout}
        # At least a millisecond: poll truncates its argument, and a wait of 0 would spin until the reading is due.
        for descriptor, _ in poller.poll(max(1.0, 1000 * (next_reading - now))):
            content = os.read(descriptor, READ_BYTES)
            handlers[descriptor].take(content)
            if not content:
                poller.unregister(descriptor)
                running.discard(descriptor)


def _enforce(boxes: Sequence[Box], account: CountedTime, now: float) -> None:
    counted = account.read()
    for box in boxes:
        if box.killed is None:
            box.counted_seconds, box.used_seconds = counted, busiest_process(box.pid)
        if box.used_seconds >= box.limits.cpu_seconds or (counted >= box.limits.wall_seconds and account.is_settled):
            box.stop(Ending.TIMEOUT)
        elif counted >= box.may_count:
            box.stop(Ending.STOPPED)
        elif now >= box.last_moment:
            # Together they used more than one process of each box may: many processes waited for one another.
            crowd = account.used_seconds > len(boxes) * box.limits.cpu_seconds
            box.stop(Ending.TIMEOUT if crowd else Ending.STARVED)


def _next_reading(boxes: Collection[Box], account: CountedTime) -> float:
    """When to read the account next: the earliest moment at which a limit can be reached, on the monotonic clock."""
    # Most programs end within milliseconds, and a reading of /proc would only slow them: the first one waits until a
    # limit can be near. Later ones come often, since a thread that ends takes its account with it.
    left = [
        min(
            min(box.limits.wall_seconds, box.may_count) - account.counted_seconds,
            box.limits.cpu_seconds - box.used_seconds,
        )
        for box in boxes
        if not box.killed
    ]
    since = max(time.monotonic(), account.last_reading)
    first = min(left, default=READ_EVERY_SECONDS)
    if account.wall_seconds == 0.0:  # not read yet
        return account.last_reading + min(first, READ_EVERY_SECONDS)
    return since + min(max(first, SHORTEST_WAIT_SECONDS), READ_EVERY_SECONDS)


class _Reader:
    """Handles the content of one descriptor."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def take(self, content: bytes) -> None:
        """Take the next piece; an empty one is the end."""
        raise NotImplementedError


class _Stdout(_Reader):
    def take(self, content: bytes) -> None:
        room = self._box.limits.output_bytes - len(self._box.stdout)
        self._box.stdout += content[:room]
        if len(content) > room:
            self._box.stop(Ending.OUTPUT_LIMIT)


class _Stderr(_Reader):
    def take(self, content: bytes) -> None:
        self._box.stderr_bytes += len(content)
        self._box.stderr = (self._box.stderr + content)[-KEPT_STDERR_BYTES:]
        if self._box.stderr_bytes > self._box.limits.output_bytes:
            self._box.stop(Ending.OUTPUT_LIMIT)


class _Control(_Reader):
    def take(self, content: bytes) -> None:
        self._box.status += content[:MAX_STATUS_BYTES]


class _Report(_Reader):
    """Collects the content of a channel, which belongs to no box."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def take(self, content: bytes) -> None:
        self._channel.content += content[: self._channel.max_bytes - len(self._channel.content)]
        self._channel.closed = not content
