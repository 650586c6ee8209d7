"""Rank 0 of the learner: serves the streams and runs the loop.

The main thread trains. An event loop in a second thread serves RolloutStream and PolicyStream and keeps the
registration at the hub. The two threads share the inbox (groups come in) and the publisher (weights go out).
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import grpc.aio
import torch

from rlserve.actors import collector
from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.registration import Registration
from rlserve.actors.discovery.starting import Starting
from rlserve.actors.learner.ingest.environments import EnvironmentFollower
from rlserve.actors.learner.ingest.frames import MAX_FRAME_BYTES
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.stream_service import SERVICE_NAME as STREAM_SERVICE
from rlserve.actors.learner.ingest.stream_service import RolloutStreamService
from rlserve.actors.learner.joining.service import SERVICE_NAME as JOIN_SERVICE
from rlserve.actors.learner.joining.service import JoinService
from rlserve.actors.learner.leases.curriculum import Curriculum
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.actors.learner.leases.settings import InboxSettings
from rlserve.actors.learner.live_settings import LiveSettings
from rlserve.actors.learner.loop import TrainingLoop
from rlserve.actors.learner.measure.arrivals import Arrivals
from rlserve.actors.learner.measure.best import BestCheckpoint
from rlserve.actors.learner.reporter import Reporter
from rlserve.actors.learner.run_state import HubReport
from rlserve.actors.learner.start_point import StartPoint, open_store
from rlserve.actors.learner.teacher_check import check_teachers
from rlserve.actors.learner.train.trainer import Trainer
from rlserve.actors.mirror.uploads import mirrored
from rlserve.actors.stop_deadline import end_within
from rlserve.batching.filters import why_drop
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import DeadlineExceeded
from rlserve.observability.events import EventLog
from rlserve.observability.warner import Warner
from rlserve.records import Actor, ActorKind, RunPhase
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import RunningServer, serving
from rlserve.rpc.thread import LoopThread
from rlserve.tokens.end_tokens import end_token_warning
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.tokenizer import fingerprint
from rlserve.v1 import join_service_pb2_grpc as join_grpc
from rlserve.v1 import policy_stream_service_pb2_grpc as policy_grpc
from rlserve.v1 import rollout_stream_service_pb2_grpc as stream_grpc
from rlserve.weight_sync.carriers import carriers
from rlserve.weight_sync.service import SERVICE_NAME as POLICY_SERVICE
from rlserve.weight_sync.service import PolicyService

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
"""To serve and register: the hub may be starting, too."""
GOODBYE_SECONDS = 10.0  # a goodbye is one small frame a worker; any value of this size will do
STOP_SECONDS = 15.0
"""For workers to read their goodbye, then for the servers to stop; a peer that hangs delays the end no longer."""
END_SECONDS = 120.0
"""From the end of training to the end of the process; all results are written before."""


class Learner:
    """Rank 0: services, inbox, loop."""

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        *,
        trainer: Trainer,
        start: StartPoint,
        actor_id: str,
        stop: threading.Event,
    ) -> None:
        """``stop`` asks to save a checkpoint and end."""
        self._config = config
        self._paths = paths
        self._trainer = trainer
        self._start = start
        self._actor_id = actor_id
        self._arrivals = Arrivals()
        self._curriculum = Curriculum(config.environments)
        self._curriculum.restore(start.state.curriculum)
        self._warn = Warner(paths.events)
        self._stop = stop
        self._store = open_store(config, paths, start.state, self._warn, stop)
        self._publisher = trainer.publisher
        self._tokens = ModelTokens.load(start.model_path, config.model.chat_template_kwargs)
        self._inbox = self._open_inbox()
        self._follower: EnvironmentFollower | None = None
        self._starting = Starting()
        self._hub: HubClient | None = None

    def run(self, hub_address: str, address: str) -> None:
        """Serve and train to the end. Raises the error that ended it early."""
        collector.spare()
        thread = LoopThread("learner-rpc")
        stack = AsyncExitStack()
        try:
            policy, streams = thread.run(self._serve(stack, hub_address, address), START_SECONDS)
            self._check_teachers(thread)
            reporter = Reporter(
                config=self._config,
                paths=self._paths,
                inbox=self._inbox,
                arrivals=self._arrivals,
                policy=policy,
                curriculum=self._curriculum,
                hub=HubReport(self._config, self._hub, thread, self._environments),
                warn=self._warn,
                step=self._start.state.step,
            )
            with mirrored(self._config, self._paths, self._warn):
                self._train(reporter, policy)
                thread.run(streams.finish("the run is over"), GOODBYE_SECONDS)
        finally:
            # Before anything below can hang.
            end_within(END_SECONDS, self._actor_id, loop=thread.loop)
            # Waits end first, then the servers, then what they read: publisher and store. The trainer is last, because
            # it talks to the other ranks and may raise.
            self._inbox.close()
            _stop_serving(thread, stack)
            self._trainer.end_publishing()
            self._store.close()
            self._trainer.close()

    def _environments(self) -> str:
        return self._follower.message if self._follower else ""

    def _check_teachers(self, thread: LoopThread) -> None:
        if self._hub is None or not self._config.teachers:
            return
        # No limit of its own: each teacher is waited for as long as it starts, and within a deadline otherwise.
        checking = check_teachers(self._config, self._hub, tokens=self._tokens, vocab_size=self._trainer.vocabulary)
        unshared = thread.submit(checking).result()
        if unshared is not None:
            self._trainer.set_unshared(torch.from_numpy(unshared))

    def _train(self, reporter: Reporter, policy: PolicyService) -> None:
        loop = TrainingLoop(
            live=LiveSettings(self._config, self._paths.live, self._warn),
            trainer=self._trainer,
            inbox=self._inbox,
            store=self._store,
            reporter=reporter,
            served=policy.served,
            state=self._start.state,
            best=BestCheckpoint(
                self._config.evaluate, self._store, self._paths.checkpoints, step=self._start.state.step
            ),
            curriculum=self._curriculum,
            warn=self._warn,
            stop=self._stop,
            starting=self._starting.names,
        )
        try:
            loop.run()
        # However the loop ends, the hub must not show a run in training.
        except BaseException as error:
            reporter.finished(RunPhase.FAILED, str(error))
            raise
        reporter.finished(RunPhase.FINISHED)

    def _open_inbox(self) -> Inbox:
        tokenizer = self._tokens.tokenizer
        if warning := end_token_warning(tokenizer, self._tokens.end_ids):
            self._warn(warning)
        settings = InboxSettings.of(
            self._config,
            mixture=self._curriculum.applied(MixtureEntry.of(self._config.environments)),
            tokenizer_fingerprint=fingerprint(tokenizer),
            # Rows of the embedding, which may be padded beyond the tokenizer: what can be sampled can be trained on.
            vocab_size=self._trainer.vocabulary,
        )
        return Inbox(
            self._store,
            settings,
            why_drop=partial(why_drop, algorithm=self._trainer.algorithm, reference=self._trainer.served_reference),
            version=self._start.state.step,
            observers=[self._arrivals.add, self._curriculum.observe],
            warn=self._warn,
        )

    async def _serve(
        self, stack: AsyncExitStack, hub_address: str, address: str
    ) -> tuple[PolicyService, RolloutStreamService]:
        policy = PolicyService(
            self._publisher,
            chunk_bytes=self._config.learner.chunk_bytes,
            carriers=carriers(self._config.sync.broadcast_address),
        )
        streams = RolloutStreamService(
            self._inbox,
            max_group_bytes=self._config.learner.max_group_bytes,
            events=EventLog(self._paths.events),
            served=policy.served,
        )
        policy.on_confirmed = streams.wake  # a worker that serves a newer version may be granted leases again
        # Before the server enters the stack, which unwinds backwards: the streams end before the tasks that serve them.
        stack.push_async_callback(streams.close)

        joining = JoinService(self._config, self._paths, self._start.start_model)

        def add(server: grpc.aio.Server) -> None:
            join_grpc.add_JoinServiceServicer_to_server(joining, server)
            policy_grpc.add_PolicyStreamServiceServicer_to_server(policy, server)
            stream_grpc.add_RolloutStreamServiceServicer_to_server(streams, server)

        server = await stack.enter_async_context(
            serving(
                add,
                address=address,
                service_names=[POLICY_SERVICE, STREAM_SERVICE, JOIN_SERVICE],
                options=ServerOptions(max_message_bytes=MAX_FRAME_BYTES),
            )
        )
        self._hub, registration = await stack.enter_async_context(_registered(hub_address, self._actor(server)))
        if self._hub is not None and registration is not None:
            stack.push_async_callback(_cancel, asyncio.create_task(self._give_way(registration)))
            self._follower = EnvironmentFollower(
                self._hub,
                self._inbox,
                MixtureEntry.of(self._config.environments),
                EventLog(self._paths.events),
                self._curriculum,
                warn=self._warn,
            )
            stack.push_async_callback(_cancel, asyncio.create_task(self._follower.follow()))
            stack.push_async_callback(_cancel, asyncio.create_task(self._starting.follow(self._hub)))
        return policy, streams

    async def _give_way(self, registration: Registration) -> None:
        """End when another learner replaced this one at the hub: workers dial the registered one alone."""
        await registration.replaced.wait()
        # In a thread: closing waits for the lock, whose holder may wait for the store.
        await asyncio.to_thread(
            self._inbox.close,
            f"this learner lost its place at the hub: {registration.problem}. Stop the other one, and go on from the "
            "last checkpoint with --resume",
        )

    def _actor(self, server: RunningServer) -> Actor:
        return Actor(
            actor_id=self._actor_id,
            kind=ActorKind.LEARNER,
            address=server.address,
            # New in each process, by which the hub tells a restart from a repeated registration.
            incarnation=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            run_id=self._config.name,
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _stop_serving(thread: LoopThread, stack: AsyncExitStack) -> None:
    """Stop within STOP_SECONDS: a peer that keeps its stream open must not fail a run whose results are written."""
    try:
        thread.run(stack.aclose(), STOP_SECONDS)
    except DeadlineExceeded as error:
        logger.warning("servers did not stop in time: %s", error)
    thread.close()


@asynccontextmanager
async def _registered(
    hub_address: str, actor: Actor
) -> AsyncIterator[tuple[HubClient, Registration] | tuple[None, None]]:
    if not hub_address:
        yield None, None
        return
    async with HubClient(hub_address) as hub, hub.registered(actor) as registration:
        yield hub, registration
