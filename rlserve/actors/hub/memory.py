"""What a hub must know after a restart, kept by the run's store.

Actors register again by themselves, at their next heartbeat. What no actor repeats is kept here: environments that were
registered without a server that stays (standalone), names that are kept out, and the state of the run.

``save`` waits for: the store, two seconds at most. The call of a client that changes one of them ends behind it.
"""

import asyncio
import base64
import json
import logging
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from rlserve.actors.hub.environment_registry import STANDALONE, EnvironmentRegistry
from rlserve.config.paths import RunPaths
from rlserve.errors import RlserveError, Unavailable
from rlserve.records import RunState
from rlserve.rpc import codec
from rlserve.store.base import StoreBackend
from rlserve.v1 import hub_service_pb2 as pb

logger = logging.getLogger(__name__)

START_SECONDS = 30.0
"""A hub that starts waits so long for a store whose server is away; then it begins without, since all actors of a run
wait for their hub."""
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class HubMemory:
    """The place where a hub of one run keeps what it must know."""

    backend: StoreBackend
    paths: RunPaths

    async def load(self, environments: EnvironmentRegistry) -> RunState | None:
        """Register what was kept; returns the state of the run, None before the first report."""
        data = await self._recalled()
        try:
            return None if data is None else _restored(json.loads(data), environments)
        except (ValueError, LookupError, TypeError, DecodeError) as error:
            logger.error("hub: starts without what it kept, which cannot be read: %s", error)
            return None

    async def save(self, environments: EnvironmentRegistry, state: RunState | None) -> None:
        """Keep the present. Raises Unavailable."""
        standalone = [(_text(codec.environment_to_proto(spec)), host) for spec, host in environments.standalone()]
        kept = {
            "standalone": standalone,
            "kept_out": environments.kept_out(),
            "state": _text(codec.run_state_to_proto(state)) if state else "",
        }
        await asyncio.to_thread(self.backend.remember_hub, self.paths, json.dumps(kept).encode())

    async def _recalled(self) -> bytes | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while True:
            try:
                return await asyncio.to_thread(self.backend.recall_hub, self.paths)
            except Unavailable as error:
                if loop.time() > deadline:
                    logger.error("hub: starts without what it kept: %s", error)
                    return None
                logger.warning("hub: waits for its store: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
            except RlserveError as error:
                logger.error("hub: starts without what it kept: %s", error)
                return None


def _restored(kept: dict[str, Any], environments: EnvironmentRegistry) -> RunState | None:
    for text, host in kept["standalone"]:
        spec = pb.EnvironmentSpec.FromString(base64.b64decode(text))
        environments.register(codec.environment_from_proto(spec, "spec"), STANDALONE, host=host)
    environments.keep_out(kept["kept_out"])
    if not kept["state"]:
        return None
    return codec.run_state_from_proto(pb.RunState.FromString(base64.b64decode(kept["state"])), "state")


def _text(message: pb.EnvironmentSpec | pb.RunState) -> str:
    return base64.b64encode(message.SerializeToString()).decode("ascii")
