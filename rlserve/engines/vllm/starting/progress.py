"""A start of vLLM that ends by progress: no clock guesses how long loading, compiling and capturing may take.

It is given up only when nothing moves: no process computes or waits for a processor, nothing is read or written, and no
title of vLLM's processes changes (``titles``).

``launched``  waits for: the thread in which vLLM starts. unblocked by: its end, or the watch, which kills vLLM's
              processes.
"""

import asyncio
import os
from collections.abc import Collection
from typing import Any

import psutil

from rlserve.engines.base import EngineOptions
from rlserve.engines.vllm.starting.start import launch
from rlserve.engines.vllm.starting.titles import FIRST, doing_of
from rlserve.engines.vllm.watch import LOOK_SECONDS, EngineWatch
from rlserve.errors import DeadlineExceeded
from rlserve.processor_time import processor_time


async def launched(options: EngineOptions, **others: Any) -> Any:
    """A running ``AsyncLLM``; ``others`` are further arguments of vLLM's ``AsyncEngineArgs``.

    Raises DeadlineExceeded when the start stands still for ``options.stall_seconds``, and what vLLM raises.
    """
    others_before = {process.pid for process in psutil.Process().children(recursive=True)}
    # In a list that is emptied: a pool thread keeps its last result alive, and vLLM's engine must be collected before
    # the interpreter shuts down.
    starting = asyncio.create_task(asyncio.to_thread(lambda: [launch(options, **others)]))
    watch = EngineWatch(options.stall_seconds)
    said = ""
    try:
        while not (await asyncio.wait({starting}, timeout=LOOK_SECONDS))[0]:
            own = [p for p in psutil.Process().children(recursive=True) if p.pid not in others_before]
            phase = doing_of(own)
            if phase and phase != said:
                options.report(phase)
                said = phase
            times = processor_time(os.getpid())
            problem = watch.look(
                asked=True,
                sampling=True,  # so that a start which computes without an end ends too
                output=(phase, len(own), _transferred(own)),
                processor_seconds=times.used_seconds + times.waited_seconds,
            )
            if problem:
                _kill(own)
                raise DeadlineExceeded(f"engine: vLLM's start stands still (it {said or FIRST}): {problem}")
        return starting.result().pop()
    finally:
        starting.cancel()


def _transferred(processes: Collection[psutil.Process]) -> int:
    """Bytes that the processes read and wrote: a checkpoint from a slow disk, a compiled kernel into its cache."""
    total = 0
    for process in processes:
        try:
            counters = process.io_counters()
        except (psutil.Error, OSError):
            continue
        total += int(counters.read_bytes + counters.write_bytes)
    return total


def _kill(processes: Collection[psutil.Process]) -> None:
    """The thread that waits for them ends then, and with it this process can."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
