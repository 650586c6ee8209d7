"""A rollout worker process: engine, weights, stream to the learner, control service.

Order of the start: the engine loads the start checkpoint, catches up with the learner's newest version, and only then
asks for leases. So a restarted worker never samples from old weights.
"""

import asyncio
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import grpc.aio

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.pool import EndpointPool
from rlserve.actors.discovery.starting import WAITS
from rlserve.actors.process import run_actor
from rlserve.actors.rollout.clients import TaskClient, VerifierPoolClient
from rlserve.actors.rollout.episodes.episode import EpisodeWorker
from rlserve.actors.rollout.episodes.stream import EpisodeClient
from rlserve.actors.rollout.service import SERVICE_NAME, RolloutService
from rlserve.actors.rollout.stream import StreamSession
from rlserve.actors.rollout.teachers import TeacherClient, TeacherRequests
from rlserve.actors.rollout.weight_follower import WeightFollower
from rlserve.actors.rollout.worker import GroupWorker
from rlserve.actors.start_model import wait_for_start_model
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.engines.base import EngineOptions, RolloutEngine
from rlserve.engines.factory import engine_class
from rlserve.engines.tool_calls import ToolCallReader
from rlserve.errors import EngineDied, NotReady
from rlserve.observability.events import EventLog
from rlserve.records import ActorKind
from rlserve.rpc.channel import open_channel
from rlserve.rpc.options import TEACHER_MESSAGE_BYTES, ChannelOptions
from rlserve.rpc.server import serving
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.v1 import rollout_service_pb2_grpc as pb_grpc
from rlserve.weight_sync.carriers import carriers
from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.subscriber import Subscriber

logger = logging.getLogger(__name__)


async def run_rollout(config: RunConfig, paths: RunPaths, *, actor_id: str, hub_address: str, address: str = "") -> int:
    """Work until the learner says goodbye or a signal arrives; return the exit code."""
    process = RolloutProcess(config, paths, worker_id=actor_id, hub_address=hub_address)
    return await run_actor(
        kind=ActorKind.ROLLOUT,
        actor_id=actor_id,
        hub_address=hub_address,
        serve=process.serve(address or config.rollout.address),
        status=process.status,
        work=process.work,
        doing=process.doing,
        run_id=config.name,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What one worker runs, once its engine is up."""

    engine: RolloutEngine
    follower: WeightFollower
    worker: GroupWorker
    session: StreamSession


class RolloutProcess:
    """One worker: ``serve`` starts its parts, ``work`` runs them."""

    def __init__(self, config: RunConfig, paths: RunPaths, *, worker_id: str, hub_address: str) -> None:
        self._config = config
        self._paths = paths
        self._worker_id = worker_id
        self._hub = HubClient(hub_address)
        self._subscriber = Subscriber(
            self._connect,
            worker_id=worker_id,
            staging=SHARED_MEMORY,
            fallback=paths.root,
            carriers=carriers(config.sync.broadcast_address),
        )
        self._started: _Parts | None = None
        self._doing = ""
        self._begin("imports its engine")

    def doing(self) -> str:
        """What the start does now, for others that wait for it."""
        return self._doing

    def _begin(self, what: str) -> None:
        self._doing = what
        logger.info("start: %s", what)

    @asynccontextmanager
    async def serve(self, address: str) -> AsyncIterator[str]:
        """Start engine, pools and server; stop them when the block ends."""
        async with AsyncExitStack() as stack:
            # First, so that it closes last: the pools follow the hub until they end.
            stack.push_async_callback(self._hub.close)
            self._started = await self._start(stack)
            service = RolloutService(
                worker_id=self._worker_id,
                engine=self._started.engine,
                worker=self._started.worker,
                follower=self._started.follower,
                session=self._started.session,
                rollout=self._config.rollout,
                model=self._config.model,
                vocabulary_size=self._started.engine.vocabulary_size,
            )
            add = functools.partial(pb_grpc.add_RolloutServiceServicer_to_server, service)
            async with serving(add, address=address, service_names=[SERVICE_NAME]) as server:
                yield server.address

    @property
    def _parts(self) -> _Parts:
        if self._started is None:
            raise NotReady(f"{self._worker_id}: its engine is still starting")
        return self._started

    async def _start(self, stack: AsyncExitStack) -> _Parts:
        config = self._config
        environments = await stack.enter_async_context(EndpointPool(self._hub, ActorKind.ENVIRONMENT))
        options = ChannelOptions(max_message_bytes=TEACHER_MESSAGE_BYTES)
        teachers = await stack.enter_async_context(EndpointPool(self._hub, ActorKind.TEACHER, options=options))
        verifiers = await stack.enter_async_context(EndpointPool(self._hub, ActorKind.VERIFIER))
        kind = engine_class(config.rollout.engine)
        await asyncio.to_thread(kind.warm_up)  # imports for seconds, while the start model may still be in the making
        self._begin(f"{WAITS}for the start model")
        model_path = await asyncio.to_thread(wait_for_start_model, config, self._paths)
        self._begin("starts its engine")
        fixed = EngineOptions.from_config(config, model_path)
        engine = await kind.start(replace(fixed, report=self._begin))
        stack.push_async_callback(engine.close)
        stack.push_async_callback(self._subscriber.close)
        self._subscriber.take_memory_of(engine.device)
        tokens = ModelTokens.load(model_path, config.model.chat_template_kwargs)
        engine.read_with(tokens.tokenizer)  # before the first lease: tasks may end completions by a text
        tool_calls = ToolCallReader(config.model.tool_parser, tokens.tokenizer)
        await tool_calls.check()
        verify = VerifierPoolClient(verifiers, deadline_seconds=config.rollout.verify_seconds)
        worker = GroupWorker(
            engine=engine,
            tokens=tokens,
            get_task=TaskClient(
                environments,
                seed=config.seed,
                deadline_seconds=config.rollout.task_seconds,
                vocab_size=engine.vocabulary_size,
            ),
            verify=verify,
            episodes=EpisodeWorker(
                engine=engine,
                tokens=tokens,
                tool_calls=tool_calls,
                run_episode=EpisodeClient(environments, config.episodes),
                verify=verify,
                limits=config.episodes,
                max_length=config.model.max_length,
            ),
            score_with_teachers=TeacherClient(teachers, tokens, TeacherRequests.of(config)),
            rollout=config.rollout,
            model=config.model,
            worker_id=self._worker_id,
            run_id=config.name,
        )
        session = StreamSession(
            worker_id=self._worker_id,
            run_id=config.name,
            incarnation=uuid.uuid4().hex,  # a restarted worker holds none of its leases any more
            tokenizer_fingerprint=worker.tokenizer_fingerprint,
            capacity=config.rollout.max_groups_in_flight,
            work=worker.work,
            progress_of=worker.progress,
        )
        return _Parts(engine=engine, follower=WeightFollower(engine, self._subscriber), worker=worker, session=session)

    async def work(self) -> None:
        """Follow weights and work on leases until goodbye. Raises EngineDied when the engine died."""
        following = asyncio.create_task(self._parts.follower.run())
        dying = asyncio.create_task(self._engine_death())
        streaming = asyncio.create_task(self._stream())
        try:
            done, _ = await asyncio.wait({following, dying, streaming}, return_when=asyncio.FIRST_COMPLETED)
            # Asked of the engine, not of ``done``: any of the three tasks may be the first to fail from its death.
            if self._parts.engine.died.is_set():
                death = self._parts.engine.death
                self._warn(f"{self._worker_id}: the inference engine is lost: {death}; the worker restarts")
            for task in done:
                task.result()
        finally:
            for task in (following, dying, streaming):
                task.cancel()
            await asyncio.gather(following, dying, streaming, return_exceptions=True)

    def status(self) -> Mapping[str, str]:
        """For ``rlserve status``."""
        counters = self._parts.worker.counters
        return {
            "version": str(self._parts.engine.version),
            "groups": str(counters.finished_groups),
            "tokens_per_second": f"{counters.tokens_per_second:.0f}",
            "weight_updates": str(self._parts.follower.num_updates),
            **({"paused": "yes"} if self._parts.session.paused else {}),
        }

    async def _stream(self) -> None:
        # Before the first lease: samples of the start checkpoint would be stale in a run that is under way.
        await self._parts.follower.caught_up()
        logger.info("caught up with version %d; asking for work", self._parts.engine.version)
        reason = await self._parts.session.run(self._connect)
        logger.info("the learner said goodbye: %s", reason)

    async def _engine_death(self) -> None:
        await self._parts.engine.died.wait()
        raise EngineDied(
            f"{self._worker_id}: the inference engine is lost ({self._parts.engine.death}); restart the worker"
        )

    def _warn(self, message: str) -> None:
        """Write a warning to the run's events, if its directory is on this host."""
        if self._paths.root.is_dir():
            EventLog(self._paths.events).write("warning", message=message, cause=message, actor=self._worker_id)

    async def _connect(self) -> grpc.aio.Channel:
        """A channel to the learner; waits for one to join the hub."""
        # Both limits: the learner joins after its own start, which waits for the start model.
        learner = await self._hub.wait_for(
            ActorKind.LEARNER, deadline_seconds=self._config.launch.start_seconds + self._config.launch.prepare_seconds
        )
        return open_channel(learner.address)
