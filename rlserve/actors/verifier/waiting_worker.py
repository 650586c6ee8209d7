"""A process for verifiers that wait: ``async def verify`` of many completions at once, in one event loop.

Started by the pool as ``python -m rlserve.actors.verifier.waiting_worker`` with one verifier. Jobs come and verdicts
go in any order, by number. The limit of a completion begins when it is read, which is when judging it begins.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from rlserve import plugins
from rlserve.actors.verifier.frames import MAX_JOB_BYTES, FrameBuffer, encode_verdict
from rlserve.actors.verifier.traits import encode_traits
from rlserve.actors.verifier.worker import die_with_parent, load, no_verdict, read, take_pipes, write
from rlserve.errors import DeadlineExceeded

READ_BYTES = 2**18


def main() -> int:
    """Serve until the pipe closes; returns the exit code."""
    die_with_parent(int(sys.argv[1]))
    jobs, replies = take_pipes()
    hello = read(jobs)
    if hello is None:
        return 0
    verifiers, traits = load(hello["verifiers"], prepare=hello["prepare"], waiting=True)
    write(replies, {"traits": [encode_traits(found) for found in traits]})
    asyncio.run(_serve(next(iter(verifiers.values())), jobs, replies))
    return 0


async def _serve(verifier: plugins.Verifier, jobs: BinaryIO, replies: BinaryIO) -> None:
    """waits for: jobs. unblocked by: the service, which sends them and hangs up at the end."""
    running: dict[int, asyncio.Task[None]] = {}
    buffer = FrameBuffer(max_bytes=MAX_JOB_BYTES)
    loop = asyncio.get_running_loop()
    while data := await loop.run_in_executor(None, os.read, jobs.fileno(), READ_BYTES):
        for job in buffer.feed(data):
            number = job["number"]
            if "cancel" in job:
                if (task := running.get(number)) is not None:
                    task.cancel()
                continue
            running[number] = asyncio.create_task(_judge(verifier, job, replies))
            running[number].add_done_callback(lambda _, number=number: running.pop(number))  # type: ignore[misc]
    for task in running.values():
        task.cancel()
    await asyncio.gather(*running.values(), return_exceptions=True)
    if hasattr(verifier, "close"):
        with contextlib.suppress(Exception):
            await verifier.close()


async def _judge(verifier: Any, job: Mapping[str, Any], replies: BinaryIO) -> None:
    start, limit = time.perf_counter(), job["limit_seconds"]
    try:
        async with asyncio.timeout(limit) as timer:
            said = {"verdict": encode_verdict(await verifier.verify(job["completion"], _payload(job), job["prompt"]))}
    except TimeoutError as error:
        over = DeadlineExceeded(f"not judged within {limit:g} s")
        said = no_verdict(over if timer.expired() else error, verifier)
    except Exception as error:
        said = no_verdict(error, verifier)
    write(replies, {"index": job["number"], "seconds": time.perf_counter() - start, **said})


def _payload(job: Mapping[str, Any]) -> bytes:
    return bytes(job["payload"].encode("latin-1"))


if __name__ == "__main__":
    sys.exit(main())
