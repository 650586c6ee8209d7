"""Watching boxes: read what they write, end those that go over a limit.

The CPU limit holds for each process, by the kernel's exact account; the limit that the kernel enforces by itself is
counted in ticks, and stands behind. The wall limit counts time as :mod:`rlserve.processor_time` does: what boxes that
talk with each other wait for a processor is left out, so that a busy machine ends nobody. A box that waits for so long
that it would block the others behind it is given up, and nothing is said of its program (``Ending.STARVED``), unless
its processes kept each other waiting.
"""

import os
import select
import time
from collections.abc import Collection, Iterable, Sequence

from rlserve.processor_time import READ_EVERY_SECONDS, CountedTime, busiest_process
from rlserve.sandbox.box import KEPT_STDERR_BYTES, MAX_STATUS_BYTES, REAP_SECONDS, Box, Channel, Ending

SHORTEST_WAIT_SECONDS = 0.01


def time_of(boxes: Iterable[Box]) -> CountedTime:
    """The account of boxes that wait for each other, from when the first was opened."""
    boxes = list(boxes)
    return CountedTime(*(box.pid for box in boxes), born=min(box.started for box in boxes))


def watch(
    boxes: Iterable[Box],
    channels: Iterable[Channel] = (),
    *,
    until_closed: Channel | None = None,
    account: CountedTime | None = None,
) -> None:
    """Read until every box has ended, or until ``until_closed`` is; end those that go over a limit.

    waits for: output, ends. unblocked by: the limits of the boxes, REAP_SECONDS after they were ended for it.
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
        for descriptor, _ in poller.poll(max(1.0, 1000 * (next_reading - now))):
            content = os.read(descriptor, 65536)
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
            crowd = account.used_seconds > len(boxes) * box.limits.cpu_seconds  # more than a process each may use
            box.stop(Ending.TIMEOUT if crowd else Ending.STARVED)


def _next_reading(boxes: Collection[Box], account: CountedTime) -> float:
    """When a limit can be reached at the earliest, if that is soon; on the monotonic clock."""
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
    if account.wall_seconds == 0.0:  # read for the first time when the limit may be over, or a program is slow
        return account.last_reading + min(first, READ_EVERY_SECONDS)
    return since + min(max(first, SHORTEST_WAIT_SECONDS), READ_EVERY_SECONDS)


class _Reader:
    """Takes what one descriptor gives; empty at its end."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def take(self, content: bytes) -> None:
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
    """A channel's content; has no box."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def take(self, content: bytes) -> None:
        self._channel.content += content[: self._channel.max_bytes - len(self._channel.content)]
        self._channel.closed = not content
