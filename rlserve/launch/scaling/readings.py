"""What the hub knows of a run's pools, as signals."""

from collections.abc import Mapping, Sequence

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.config.run import RunConfig
from rlserve.errors import NotReady
from rlserve.launch.plan import pool_of
from rlserve.launch.scaling.policy import Signal, rollout_signal, server_signal
from rlserve.records import Actor, RunState

ROLLOUT, VERIFIER = "rollout", "verifier"
TEACHER_AT_ONCE = 8
"""Requests in one batch of a teacher server, about; it depends on their lengths."""


class Readings:
    """Signals of all pools, each time they are asked for."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._step = -1

    async def read(self, hub: HubClient) -> dict[str, Signal]:
        """The signals at present; a pool of which nothing new is known is left out."""
        try:
            state = await hub.get_run_state()
        except NotReady:  # no learner has reported yet
            return {}
        return {**self._servers(await hub.list_actors()), **self._rollout(state)}

    def _rollout(self, state: RunState) -> Mapping[str, Signal]:
        metrics = state.metrics
        if state.step == self._step or "learner/wait_seconds" not in metrics:
            return {}
        self._step = state.step
        signal = rollout_signal(
            wait_seconds=metrics["learner/wait_seconds"],
            step_seconds=metrics["learner/step_seconds"],
            queued=int(state.groups.get("queued", 0)),
            groups_per_step=self._config.learner.groups_per_step,
        )
        return {ROLLOUT: signal}

    def _servers(self, actors: Sequence[Actor]) -> Mapping[str, Signal]:
        waiting: dict[str, int] = {}
        servers: dict[str, int] = {}
        for actor in actors:
            # Verifiers and teachers say with each heartbeat how many requests wait.
            if (queued := actor.status.get("queued", "")).isdigit():
                pool = pool_of(actor.actor_id)
                waiting[pool] = waiting.get(pool, 0) + int(queued)
                servers[pool] = servers.get(pool, 0) + 1
        each = {VERIFIER: self._config.verifier.workers}
        return {
            pool: server_signal(queued=waiting[pool], at_once=count * each.get(pool, TEACHER_AT_ONCE))
            for pool, count in servers.items()
        }
