"""The join service of a learner, without the learner: ``join_point.py HUB ADDRESS RUN_DIRECTORY MODEL``."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rlserve.actors.learner.joining.service import SERVICE_NAME, JoinService
from rlserve.actors.process import run_actor
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.records import ActorKind
from rlserve.rpc.server import serving
from rlserve.v1 import join_service_pb2_grpc as pb_grpc


async def main(hub: str, address: str, directory: str, model: str) -> int:
    paths = RunPaths(Path(directory))
    service = JoinService(load_run([paths.config]), paths, model)

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        add = functools.partial(pb_grpc.add_JoinServiceServicer_to_server, service)
        async with serving(add, address=address, service_names=[SERVICE_NAME]) as server:
            yield server.address

    return await run_actor(kind=ActorKind.LEARNER, actor_id="learner", hub_address=hub, serve=serve())


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
