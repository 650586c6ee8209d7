"""The state of the run at the hub, for ``rlserve status`` and the dashboard."""

import logging
import time
from collections.abc import Callable, Mapping

import grpc.aio

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError
from rlserve.records import RunPhase, RunState
from rlserve.rpc.thread import LoopThread
from rlserve.store.base import GroupCounts

logger = logging.getLogger(__name__)


class HubReport:
    """Sends the run's state to the hub; the training thread waits for no answer."""

    def __init__(
        self, config: RunConfig, hub: HubClient | None, thread: LoopThread, environments: Callable[[], str]
    ) -> None:
        """Without a hub it sends nothing. ``environments`` gives the message of a state that has none."""
        self._config = config
        self._hub = hub
        self._thread = thread
        self._environments = environments
        self.total_steps = config.steps

    def send(
        self, phase: RunPhase, step: int, *, metrics: Mapping[str, float], counts: GroupCounts, message: str = ""
    ) -> None:
        """Report the state at ``step``."""
        if self._hub is None:
            return
        state = RunState(
            run_id=self._config.name,
            phase=phase,
            step=step,
            total_steps=self.total_steps,
            metrics=dict(metrics),
            groups={
                "received": counts.received,
                "consumed": counts.consumed,
                "queued": counts.queued,
                **{f"dropped/{reason}": count for reason, count in counts.dropped.items()},
            },
            updated_unix_seconds=time.time(),
            message=message or self._environments(),
        )
        self._thread.submit(_send(self._hub, state))


async def _send(hub: HubClient, state: RunState) -> None:
    try:
        await hub.report_run_state(state)
    # Swallowed: the hub only shows the state, and the next report replaces a lost one.
    except (RlserveError, grpc.aio.AioRpcError) as error:
        logger.warning("the hub did not take the run state: %s", error)
