"""How many small groups one learner receives per second, by the number of workers that send them.

The learner's side is real: streams, checks, leases, a store on disk, and a trainer that takes batches and commits them.
The workers are another process, which answers each lease with a group of that task. The rate is per second of the
learner's processor time, so that neither the workers nor other programs on the machine change it.

The store is a file or, asked for, a Redis server; the server's own processor time is not counted.

The reference is the least work with the same bytes: each group is decoded and inserted by itself, without streams,
leases or a trainer.
"""

import asyncio
import functools
import multiprocessing
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from rlserve.actors import collector
from rlserve.actors.learner.ingest.frames import MAX_FRAME_BYTES
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.stream_service import SERVICE_NAME, RolloutStreamService
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.actors.learner.leases.settings import InboxSettings
from rlserve.actors.rollout.lease_frames import FinishedGroup, together
from rlserve.algorithms import registry
from rlserve.batching.filters import why_drop
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.paths import RunPaths
from rlserve.config.tables.store import StoreConfig
from rlserve.errors import DeadlineExceeded
from rlserve.observability.metrics import percentile
from rlserve.records import (
    FinishReason,
    Lease,
    Outcome,
    PolicySpan,
    RolloutGroup,
    Segment,
    SegmentKind,
    Task,
    Trajectory,
    Verdict,
)
from rlserve.rpc import codec
from rlserve.rpc.channel import open_channel
from rlserve.rpc.codec import GroupLimits
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import serving
from rlserve.store.base import GroupInfo, Store
from rlserve.store.registry import backend_of
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc

WORKERS = (1, 10, 100, 300)
SECONDS, WARM_SECONDS = 5.0, 1.5
"""Of each measurement, and before it until all streams are full. Any values of this size will do: the learner receives
thousands of groups in that time."""
SAMPLES, PROMPT, SAMPLED = 4, 8, 12
"""Size of one group, about 700 bytes: as small as tasks have them, so that the cost of a group and not of its bytes is
measured."""
IN_FLIGHT = 2048
"""Groups leased at a time, over all workers. Any value will do that keeps the learner busy."""
BATCH = 64
"""Groups of a step of the trainer. Any value of this size will do."""
TARGET = 2000.0
"""Groups a second of one core, as the least that is aimed at: a learner must not be the bottleneck of its workers."""
LIMITS = GroupLimits(vocab_size=64, max_tokens=64, max_trajectories=SAMPLES)
RUN, TOKENIZER = "bench", "tokenizer"
FILE = StoreConfig()


@dataclass(frozen=True, slots=True)
class _Measured:
    """The measurements of the workers."""

    groups: int
    latencies: list[float]
    """Seconds from a group's sending to its ack."""


def measure(
    *, workers: Sequence[int] = WORKERS, seconds: float = SECONDS, store: StoreConfig = FILE
) -> dict[str, object]:
    """Groups per wall second and per second of one core, and latencies of acknowledgements."""
    collector.spare()
    bare = _bare_rate(seconds / 2, store)
    numbers: dict[str, object] = {"group_bytes": len(codec.group_to_bytes(_answer(_lease(0), "w")))}
    for count in workers:
        numbers[f"{count}_workers"] = asyncio.run(_measure(count, seconds, bare, store))
    return {**numbers, "bare_groups_a_core_second": bare, "target_groups_a_core_second": TARGET}


async def _measure(workers: int, seconds: float, bare: float, config: StoreConfig) -> dict[str, float]:
    with _opened(config) as store:
        inbox = _inbox(store)
        stop = threading.Event()
        trainer = threading.Thread(target=_train, args=(inbox, stop))
        trainer.start()
        try:
            async with _served(inbox) as address:
                # spawn, not fork: gRPC's threads and locks do not survive a fork.
                context = multiprocessing.get_context("spawn")
                ours, theirs = context.Pipe()
                process = context.Process(target=_clients, args=(theirs, address, workers))
                process.start()
                theirs.close()
                await asyncio.to_thread(ours.recv)  # all have joined
                await asyncio.sleep(WARM_SECONDS)
                before, used, started = inbox.queue.counts().received, time.process_time(), time.perf_counter()
                await asyncio.sleep(seconds)
                groups = inbox.queue.counts().received - before
                used, passed = time.process_time() - used, time.perf_counter() - started
                ours.send("stop")
                seen: _Measured = await asyncio.to_thread(ours.recv)
                await asyncio.to_thread(process.join)
        finally:
            stop.set()
            inbox.close()
            trainer.join()
    return {
        "groups_a_second": groups / passed,
        "groups_a_core_second": groups / used,
        "ratio_to_bare": groups / used / bare,
        "cores_used": used / passed,
        "ack_ms_p50": 1000 * percentile(seen.latencies, 0.5),
        "ack_ms_p99": 1000 * percentile(seen.latencies, 0.99),
    }


@contextmanager
def _opened(config: StoreConfig) -> Iterator[Store]:
    """A new store, which is deleted in the end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        backend, paths = backend_of(config), RunPaths(Path(directory))
        store = backend.open(paths)
        try:
            yield store
        finally:
            store.close()
            backend.remove(paths)


def _bare_rate(seconds: float, config: StoreConfig) -> float:
    """Groups a second of one core, decoded and inserted one by one."""
    payloads = [codec.group_to_bytes(_answer(_lease(index), "w")) for index in range(256)]
    with _opened(config) as store:
        started, count = time.process_time(), 0
        while (used := time.process_time() - started) < seconds:
            payload = payloads[count % len(payloads)]
            group = codec.group_from_bytes(payload, limits=LIMITS)
            # A new id each time: the store ignores a group that it has received before.
            store.receive(GroupInfo(group_id=f"{group.group_id}/{count}", worker_id=group.worker_id), payload)
            count += 1
    return count / used


def _inbox(store: Store) -> Inbox:
    algorithm = registry.create(GrpoConfig())
    settings = InboxSettings(
        run_id=RUN,
        seed=0,
        mixture=(MixtureEntry("arithmetic", "train", 1.0),),
        num_samples=SAMPLES,
        max_outstanding=IN_FLIGHT,
        max_lag=2**31,  # no group is stale: all are of version 0, and the trainer publishes hundreds
        lease_seconds=60.0,
        tokenizer_fingerprint=TOKENIZER,
        batch=BATCH,
        limits=LIMITS,
    )
    return Inbox(
        store,
        settings,
        why_drop=functools.partial(why_drop, algorithm=algorithm),
    )


def _train(inbox: Inbox, stop: threading.Event) -> None:
    """Take batches and commit them without training, as fast as they come."""
    step = 0
    while not stop.is_set():
        try:
            groups = inbox.queue.take(BATCH, deadline_seconds=0.2)
        except (DeadlineExceeded, RuntimeError):
            continue
        step += 1
        inbox.queue.commit(step, [group.group_id for group in groups])
        inbox.queue.published(step)


@asynccontextmanager
async def _served(inbox: Inbox) -> AsyncIterator[str]:
    service = RolloutStreamService(inbox, max_group_bytes=2**20)
    add = functools.partial(pb_grpc.add_RolloutStreamServiceServicer_to_server, service)
    options = ServerOptions(max_message_bytes=MAX_FRAME_BYTES, stop_grace_seconds=0.2)
    async with serving(add, service_names=[SERVICE_NAME], options=options) as server:
        try:
            yield server.address
        finally:
            await service.close()


def _clients(pipe: Connection, address: str, workers: int) -> None:
    """Entry point of the process of the workers."""
    pipe.send(asyncio.run(_run_clients(pipe, address, workers)))


async def _run_clients(pipe: Connection, address: str, workers: int) -> _Measured:
    joined, latencies = asyncio.Semaphore(0), list[float]()
    tasks = [
        asyncio.create_task(_client(address, f"w{number}", max(1, IN_FLIGHT // workers), joined, latencies))
        for number in range(workers)
    ]
    for _ in range(workers):  # the measurement begins when every stream is open
        await joined.acquire()
    pipe.send("joined")
    await asyncio.to_thread(pipe.recv)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return _Measured(len(latencies), latencies)


async def _client(
    address: str, worker_id: str, capacity: int, joined: asyncio.Semaphore, latencies: list[float]
) -> None:
    sent: dict[str, float] = {}
    async with open_channel(address) as channel:
        call = pb_grpc.RolloutStreamServiceStub(channel).Stream()
        hello = pb.Hello(worker_id=worker_id, run_id=RUN, tokenizer_fingerprint=TOKENIZER, capacity=min(capacity, 256))
        await call.write(pb.StreamRequest(hello=hello))
        welcome = pb.Welcome()
        async for response in call:
            if response.HasField("welcome"):
                welcome = response.welcome
                joined.release()
            for ack in response.acks.acks:
                latencies.append(time.perf_counter() - sent.pop(ack.group_id))
            finished = []
            for lease in (*response.acks.leases, *response.credit.leases):
                data = codec.group_to_bytes(_answer(codec.lease_from_proto(lease), worker_id))
                finished.append(FinishedGroup(lease.group_id, lease.nonce, data))
                sent[lease.group_id] = time.perf_counter()
            parts = [frame for group in finished for frame in group.frames(welcome)]
            for frame in together(parts, part_bytes=welcome.part_bytes):
                await call.write(frame)


def _lease(index: int) -> Lease:
    return Lease(
        group_id=f"{RUN}/train/{index}",
        environment="arithmetic",
        split="train",
        index=index,
        seed=index,
        num_samples=SAMPLES,
    )


def _answer(lease: Lease, worker_id: str) -> RolloutGroup:
    """A group for a lease; half of its samples are right, so that its advantages are not 0 and it is kept."""
    samples = tuple(replace(sample, seed=(lease.seed + sample.sample_index) % 2**64) for sample in _samples())
    return RolloutGroup(
        group_id=lease.group_id,
        task=Task(
            environment=lease.environment,
            split=lease.split,
            index=lease.index,
            task_id=f"{lease.environment}:{lease.index}",
            prompt="3+8+5=",
            verifier="exact",
            payload=b"6",
        ),
        trajectories=samples,
        worker_id=worker_id,
        tokenizer_fingerprint=TOKENIZER,
        run_id=RUN,
    )


@functools.cache
def _samples() -> tuple[Trajectory, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        Trajectory(
            sample_index=index,
            token_ids=rng.integers(1, 60, PROMPT + SAMPLED),
            segments=(
                Segment(kind=SegmentKind.GIVEN, length=PROMPT),
                Segment(kind=SegmentKind.SAMPLED, length=SAMPLED),
            ),
            behavior_logprobs=-rng.random(SAMPLED).astype(np.float32),
            policy_spans=(PolicySpan(0, SAMPLED),),
            finish_reason=FinishReason.STOP,
            verdict=Verdict(outcome=Outcome.PASS if index % 2 else Outcome.FAIL, reward=float(index % 2)),
            completion="#6",
        )
        for index in range(SAMPLES)
    )
