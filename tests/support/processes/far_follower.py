"""A worker on another host follows the policy stream: ``far_follower.py ADDRESS VERSION`` ends with that version.

Prints a JSON line: the carrier of each version that it took, and the seconds from start to end.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import grpc.aio

from rlserve.actors.rollout.weight_follower import WeightFollower
from rlserve.rpc.channel import open_channel
from rlserve.weight_sync.subscriber import Subscriber
from tests.support.weight_stream import ReadingEngine


async def main(address: str, version: int, directory: Path) -> None:
    async def connect() -> grpc.aio.Channel:
        return open_channel(address)

    engine = ReadingEngine()
    subscriber = Subscriber(connect, worker_id="w0", staging=directory, chunk_seconds=10)
    began = time.monotonic()
    following = asyncio.create_task(WeightFollower(engine, subscriber).run())  # type: ignore[arg-type]
    while engine.version != version:
        await asyncio.sleep(0.01)
        assert not following.done()
    seconds = time.monotonic() - began
    await asyncio.sleep(1)  # for its confirmation
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    print(json.dumps({"taken": dict(subscriber.counts.taken), "seconds": round(seconds, 2)}), flush=True)
    await subscriber.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(folder)))
