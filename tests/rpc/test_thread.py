"""An event loop in a thread, and a server in it beside a caller that blocks."""

import asyncio
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rlserve.errors import DeadlineExceeded, InvalidRequest, NotReady
from rlserve.rpc.server import serving
from rlserve.rpc.thread import LoopThread


@pytest.fixture
def loop_thread():
    thread = LoopThread("test")
    yield thread
    thread.close()


def test_results_and_errors_reach_the_caller(loop_thread: LoopThread) -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        if x < 0:
            raise InvalidRequest("x: is negative; give at least 0")
        return 2 * x

    assert loop_thread.run(double(21), 5) == 42
    with pytest.raises(InvalidRequest, match="x: is negative"):
        loop_thread.run(double(-1), 5)


def test_a_coroutine_that_runs_too_long_is_named_and_cancelled(loop_thread: LoopThread) -> None:
    cancelled = threading.Event()

    async def stuck() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(DeadlineExceeded, match=r"stuck: did not end within 0\.1 s"):
        loop_thread.run(stuck(), 0.1)
    assert cancelled.wait(5)


def test_a_timeout_of_the_coroutine_itself_is_not_taken_for_the_callers(loop_thread: LoopThread) -> None:
    async def raises_timeout() -> None:
        raise TimeoutError("inner")

    with pytest.raises(TimeoutError, match="inner") as caught:
        loop_thread.run(raises_timeout(), 5)
    assert not isinstance(caught.value, DeadlineExceeded)


def test_a_server_answers_while_the_main_thread_blocks(loop_thread: LoopThread) -> None:
    async def start():
        context = serving(lambda server: None, service_names=["test.Nothing"])
        return context, await context.__aenter__()

    context, server = loop_thread.run(start(), 10)
    with grpc.insecure_channel(server.address) as channel:  # a synchronous call: this thread blocks
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    loop_thread.run(context.__aexit__(None, None, None), 10)


def test_close_lets_tasks_clean_up_and_later_work_is_refused() -> None:
    thread, cleaned = LoopThread("short"), threading.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    thread.submit(long())
    time.sleep(0.05)
    thread.close()
    assert cleaned.is_set()
    with pytest.raises(NotReady, match="is closed"):
        thread.run(long(), 1)
