"""The judge process of an async verifier: many completions at once in one event loop.

Started by the pool as ``python -m rlserve.actors.verifier.waiting_worker`` with one verifier. Jobs and verdicts are
matched by number, in any order. The limit of a completion begins when its job is read.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from rlserve import plugins
from rlserve.actors.verifier.pipe import MAX_JOB_BYTES, FrameBuffer
from rlserve.actors.verifier.spec import encode_spec
from rlserve.actors.verifier.worker_main import (
    die_with_parent,
    encode_group,
    load,
    no_verdict,
    read,
    take_pipes,
    write,
)
from rlserve.errors import DeadlineExceeded
from rlserve.records import Verdict

READ_BYTES = 2**18
"""Any value will do: larger than the 64 KiB that a pipe holds by default."""


def main() -> int:
    """Serve until the pipe closes; returns the exit code."""
    die_with_parent(int(sys.argv[1]))
    jobs, replies = take_pipes()
    hello = read(jobs)
    if hello is None:
        return 0
    verifiers, specs = load(hello["verifiers"], prepare=hello["prepare"], waiting=True)
    write(replies, {"specs": [encode_spec(found) for found in specs]})
    asyncio.run(_serve(next(iter(verifiers.values())), jobs, replies))
    return 0


async def _serve(verifier: plugins.Verifier, jobs: BinaryIO, replies: BinaryIO) -> None:
    """waits for: jobs. unblocked by: the service, which sends them and closes the pipe at the end."""
    running: dict[int, asyncio.Task[None]] = {}
    buffer = FrameBuffer(max_bytes=MAX_JOB_BYTES)
    loop = asyncio.get_running_loop()
    # From the descriptor, past the buffer of ``jobs``. That is empty: the service sends no job before it has the specs.
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
        # The process ends now: an error here changes nothing.
        with contextlib.suppress(Exception):
            await verifier.close()


async def _judge(verifier: Any, job: Mapping[str, Any], replies: BinaryIO) -> None:
    """Judge a job's completions and write a reply for each, numbered on from that of the job."""
    start, limit, count = time.perf_counter(), job["limit_seconds"], len(job["completions"])
    try:
        async with asyncio.timeout(limit) as timer:
            said = encode_group(await _verdicts(verifier, job), count)
    except TimeoutError as error:
        # A TimeoutError of the plug-in, such as that of its HTTP client, is not the limit.
        over = DeadlineExceeded(f"not verified within {limit:g} s")
        said = [no_verdict(over if timer.expired() else error, verifier)] * count
    # Not a cancellation: the service asked for it, and expects no verdict.
    except Exception as error:
        said = [no_verdict(error, verifier)] * count
    seconds = (time.perf_counter() - start) / count
    for index, verdict in enumerate(said):
        write(replies, {"index": job["number"] + index, "seconds": seconds, **verdict})


async def _verdicts(verifier: Any, job: Mapping[str, Any]) -> Sequence[Verdict]:
    completions, payload, prompt = job["completions"], _payload(job), job["prompt"]
    if isinstance(verifier, plugins.GroupVerifier):
        verdicts: Sequence[Verdict] = await verifier.verify_group(completions, payload, prompt)  # type: ignore[misc]
        return verdicts
    return [await verifier.verify(completion, payload, prompt) for completion in completions]


def _payload(job: Mapping[str, Any]) -> bytes:
    return bytes(job["payload"].encode("latin-1"))


if __name__ == "__main__":
    sys.exit(main())
