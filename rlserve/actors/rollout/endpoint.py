"""An OpenAI-compatible endpoint of a model, or of a run's current policy: an engine of its own, which follows the run's
weights as a rollout worker does and takes no leases.

``serve_endpoint``  waits for: a signal. With a hub also for: the learner's first version, within ``launch`` limits.
"""

import asyncio
import logging
import os
import socket
from contextlib import AsyncExitStack

import grpc.aio

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.rollout.weight_follower import WeightFollower
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.engines.base import EngineOptions
from rlserve.engines.openai_app import ARGUMENTS, serve
from rlserve.engines.tool_calls import family_of
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.errors import DeadlineExceeded
from rlserve.models.adapter_files import AdapterFiles, adapter_at, read_tensors
from rlserve.records import ActorKind
from rlserve.rpc.channel import open_channel
from rlserve.tokens.tokenizer import load_tokenizer
from rlserve.weight_sync.carriers import carriers
from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.subscriber import Subscriber

logger = logging.getLogger(__name__)


async def serve_endpoint(
    config: RunConfig, paths: RunPaths, *, model: str, listening: socket.socket, hub_address: str = ""
) -> None:
    """Serve ``model`` on a bound socket until a signal; with the address of a hub, the run's newest weights.

    Raises EngineDied, and DeadlineExceeded when a run has published nothing within ``launch.start_seconds``.
    """
    async with AsyncExitStack() as stack:
        options = EngineOptions.from_config(config, model)
        engine = await VllmEngine.start(options, **ARGUMENTS)
        stack.push_async_callback(engine.close)
        if hub_address:
            await _follow(stack, engine, config, paths, hub_address)
        elif (adapter := adapter_at(model)) is not None:
            await _serve_adapter(engine, adapter, paths)
        host, port = listening.getsockname()[:2]
        logger.info("serving %s at http://%s:%d/v1 (version %d)", config.name, host, port, engine.version)
        await serve(
            engine,
            listening,
            model=options.model_path,
            name=config.name,
            tool_parser=_tool_parser(config, model),
            template_arguments=config.model.chat_template_kwargs,
        )


async def _serve_adapter(engine: VllmEngine, adapter: AdapterFiles, paths: RunPaths) -> None:
    """Serve an adapter of the model with which the engine started."""
    publisher = Publisher(SHARED_MEMORY, run_id=adapter.path.name, fallback=paths.root)
    try:
        policy = publisher.publish(read_tensors(adapter.path).items(), version=1)
        await engine.stage(policy, publisher.get(policy.version).path)
        await engine.swap(policy)
    finally:
        publisher.close()


async def _follow(
    stack: AsyncExitStack, engine: VllmEngine, config: RunConfig, paths: RunPaths, hub_address: str
) -> None:
    """Follow the run's weights until the stack closes; returns once the engine serves what was published last."""
    hub = HubClient(hub_address)
    stack.push_async_callback(hub.close)

    async def connect() -> grpc.aio.Channel:
        learner = await hub.wait_for(ActorKind.LEARNER, deadline_seconds=config.launch.start_seconds)
        return open_channel(learner.address)

    name = f"endpoint-{socket.gethostname()}-{os.getpid()}"
    subscriber = Subscriber(
        connect,
        worker_id=name,
        staging=SHARED_MEMORY,
        fallback=paths.root,
        carriers=carriers(config.sync.broadcast_address),
    )
    stack.push_async_callback(subscriber.close)
    follower = WeightFollower(engine, subscriber)
    following = asyncio.create_task(follower.run())
    stack.push_async_callback(_cancel, following)
    caught_up = asyncio.create_task(follower.caught_up())
    done, _ = await asyncio.wait(
        {caught_up, following}, timeout=config.launch.start_seconds, return_when=asyncio.FIRST_COMPLETED
    )
    if following in done:
        following.result()  # for what it raises
    if caught_up not in done:
        caught_up.cancel()
        raise DeadlineExceeded(
            f"endpoint: the learner published nothing in {config.launch.start_seconds:g} s (launch.start_seconds)"
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _tool_parser(config: RunConfig, model: str) -> str:
    asked = config.model.tool_parser
    found = family_of(getattr(load_tokenizer(model), "chat_template", None)) if asked == "auto" else asked
    return "" if found == "none" else found
