"""The teacher process: loads one frozen model, serves its log-probabilities, and stays registered."""

import asyncio
import functools
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rlserve.actors.process import run_actor
from rlserve.actors.start_model import model_at
from rlserve.actors.teacher.batcher import Batcher
from rlserve.actors.teacher.scoring import blaming_checkpoint, start_scoring
from rlserve.actors.teacher.service import SERVICE_NAME, TeacherService, describe
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.records import ActorKind
from rlserve.rpc.options import TEACHER_MESSAGE_BYTES, ServerOptions
from rlserve.rpc.server import RunningServer, serving
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.v1 import teacher_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)


async def run_teacher(config: TeacherConfig, *, model: str, actor_id: str, hub_address: str, run_id: str = "") -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. ``model`` is a directory or hub name."""
    running: list[Batcher] = []

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with teacher_server(config, model, running) as server:
            yield server.address

    def status() -> Mapping[str, str]:
        if not running:
            return {}
        batcher = running[-1]
        return {
            "scored": str(batcher.scored),
            "batches": str(batcher.batches),
            "cache_hits": str(batcher.cache_hits),
            "queued": str(batcher.num_queued),
        }

    return await run_actor(
        kind=ActorKind.TEACHER,
        actor_id=actor_id,
        hub_address=hub_address,
        serve=serve(),
        serves=[config.name],
        status=status,
        doing=lambda: "loads its model",
        run_id=run_id,
    )


@asynccontextmanager
async def teacher_server(
    config: TeacherConfig, model: str, running: list[Batcher] | None = None
) -> AsyncIterator[RunningServer]:
    """A teacher server that runs until the block ends; its batcher is appended to ``running``."""
    path = model_at(model)
    async with AsyncExitStack() as stack:
        with blaming_checkpoint(config, path):
            # In a thread: the event loop must see a signal to stop meanwhile.
            tokens = await asyncio.to_thread(ModelTokens.load, path, config.chat_template_kwargs)
        engine = await start_scoring(config, path, num_tokens=tokens.size)
        # Before the batcher enters the stack: its running batch needs the engine, so it must end first.
        stack.push_async_callback(engine.close)
        identity = describe(
            config.name,
            tokens.tokenizer,
            weights_digest=await asyncio.to_thread(weights_digest, path),
            vocabulary_size=engine.vocabulary_size,
            max_k=min(config.max_k, engine.vocabulary_size),
            max_tokens=config.max_length,
        )
        batcher = await stack.enter_async_context(
            Batcher(
                engine,
                tokens_per_batch=config.tokens_per_batch,
                max_queue=config.max_queue,
                cache_bytes=config.cache_bytes,
            )
        )
        if running is not None:
            running.append(batcher)
        add = functools.partial(pb_grpc.add_TeacherServiceServicer_to_server, TeacherService(batcher, tokens, identity))
        options = ServerOptions(max_message_bytes=TEACHER_MESSAGE_BYTES)
        yield await stack.enter_async_context(
            serving(add, address=config.address, service_names=[SERVICE_NAME], options=options)
        )


def weights_digest(path: str) -> str:
    """Digest of the checkpoint's weight files, or of its name when it is no directory."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []
    for file in files:
        with open(file, "rb") as content:
            while chunk := content.read(2**22):
                digest.update(chunk)
    if not files:
        digest.update(path.encode())
    return digest.hexdigest()
