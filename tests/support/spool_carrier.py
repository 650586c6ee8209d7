"""A third way for weights: the learner copies a version into a directory that the worker names.

It is written as a user would write one: one file, and its name in a list; nothing else of the service knows of it.
"""

import asyncio
import shutil
from pathlib import Path

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.base import Carrier, NextChunk, Offer
from rlserve.weight_sync.manifest import check
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging


class SpoolSender:
    def __init__(self, publisher: Publisher, chunk_bytes: int) -> None:
        pass

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        directory = Path(request.carriers["spool"]) if "spool" in request.carriers else None
        if directory is None or not directory.is_dir():
            return None
        target = directory / f"v{published.policy.version}"
        await asyncio.to_thread(shutil.copyfile, published.path, target)
        return Offer(pb.FetchHeader(version=published.policy.version, locator=str(target)))


def spool_carrier(directory: Path) -> Carrier:
    """The carrier of a worker whose spool is ``directory``."""

    class SpoolReceiver:
        def __init__(self, staging: Staging) -> None:
            pass

        def ask(self, request: pb.FetchRequest, held: int | None) -> None:
            request.carriers["spool"] = str(directory)

        async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
            path = Path(header.locator)
            if path.parent != directory:
                raise WeightsMismatch(f"version {policy.version}: {path} does not lie in this worker's spool")
            check(policy, await asyncio.to_thread(path.read_bytes))
            return path

    return Carrier("spool", SpoolSender, SpoolReceiver)
