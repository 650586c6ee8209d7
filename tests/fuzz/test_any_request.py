"""Any message that the wire can carry gets an answer or a documented refusal, in time; the server lives on.

More of it: ``RLSERVE_FUZZ_EXAMPLES=2000 python -m pytest tests/fuzz``.
"""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlserve.actors.environment.main import describe, load_environments
from rlserve.actors.environment.service import SERVICE_NAME as ENVIRONMENT
from rlserve.actors.environment.service import EnvironmentService
from rlserve.actors.hub.main import hub_server
from rlserve.actors.teacher.main import teacher_server
from rlserve.actors.verifier.main import verifier_server
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.rpc.server import serving
from rlserve.rpc.thread import LoopThread
from rlserve.v1 import (
    environment_service_pb2_grpc,
    hub_service_pb2_grpc,
    teacher_service_pb2_grpc,
    verifier_service_pb2_grpc,
)
from tests.support.any_message import messages, request_type
from tests.support.models.teachers import save_teacher

TEACHER = TeacherConfig(name="t", model="m", dtype="float32", max_length=64, max_k=8)
EXAMPLES = int(os.environ.get("RLSERVE_FUZZ_EXAMPLES", "60"))
SECONDS = 2.0
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
}
METHODS = {
    "hub": "Register Heartbeat Deregister ListActors GetRunState ReportRunState RegisterEnvironment"
    " UnregisterEnvironment ListEnvironments",
    "environment": "Describe GetTasks",
    "verifier": "Describe Verify",
    "teacher": "Describe Vocabulary",
}
UNARY = [(server, method) for server, methods in METHODS.items() for method in methods.split()]
SERVICES = {
    "hub": "HubService",
    "environment": "EnvironmentService",
    "verifier": "VerifierService",
    "teacher": "TeacherService",
}


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A hub, an environment server, a verifier server and a teacher, and stubs that block."""
    model = save_teacher(tmp_path_factory.mktemp("teacher"))
    thread = LoopThread("servers")
    stack = AsyncExitStack()

    async def start() -> dict[str, str]:
        hub = await stack.enter_async_context(hub_server("127.0.0.1:0", 3.0))
        configs = [EnvironmentConfig(name="arithmetic"), EnvironmentConfig(name="guess")]
        loaded = load_environments(configs)
        service = EnvironmentService(loaded, {c.name: describe(loaded[c.name], c) for c in configs})
        add = functools.partial(environment_service_pb2_grpc.add_EnvironmentServiceServicer_to_server, service)
        environment = await stack.enter_async_context(serving(add, service_names=[ENVIRONMENT]))
        config = VerifierConfig(workers=1, spares=0)
        verifier = await stack.enter_async_context(verifier_server(config, names=["exact", "regex", "math", "format"]))
        teacher = await stack.enter_async_context(teacher_server(TEACHER, model))
        return {
            "hub": hub.address,
            "environment": environment.address,
            "verifier": verifier.server.address,
            "teacher": teacher.address,
        }

    addresses = thread.run(start(), 60.0)
    kinds = {
        "hub": hub_service_pb2_grpc.HubServiceStub,
        "environment": environment_service_pb2_grpc.EnvironmentServiceStub,
        "verifier": verifier_service_pb2_grpc.VerifierServiceStub,
        "teacher": teacher_service_pb2_grpc.TeacherServiceStub,
    }
    channels = {name: grpc.insecure_channel(address) for name, address in addresses.items()}
    yield {name: kind(channels[name]) for name, kind in kinds.items()}
    for channel in channels.values():
        channel.close()
    thread.run(stack.aclose(), 30.0)
    thread.close()


@pytest.mark.parametrize(("server", "method"), UNARY)
def test_any_request_is_answered_or_refused(stubs: dict[str, Any], server: str, method: str) -> None:
    descriptor = request_type(f"{server}_service_pb2", SERVICES[server], method)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(messages(descriptor))
    def check(request: Message) -> None:
        start = time.monotonic()
        try:
            answer = getattr(stubs[server], method)(request, timeout=SECONDS)
            if isinstance(answer, grpc.Call):
                list(answer)
        except grpc.RpcError as error:
            assert error.code() in REFUSALS, f"{error.code().name}: {error.details()}"
            assert error.details()
        assert time.monotonic() - start < SECONDS

    check()


def test_any_episode_is_answered_or_refused(stubs: dict[str, Any]) -> None:
    descriptor = request_type("environment_service_pb2", "EnvironmentService", "Episode")

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(messages(descriptor), min_size=1, max_size=3))
    def check(requests: list[Message]) -> None:
        try:
            for _ in stubs["environment"].Episode(iter(requests), timeout=SECONDS):
                pass
        except grpc.RpcError as error:
            assert error.code() in REFUSALS, f"{error.code().name}: {error.details()}"

    check()


def test_any_score_request_is_answered_or_refused(stubs: dict[str, Any]) -> None:
    """Half of them name the teacher and have an id, so that the fields behind are looked at."""
    descriptor = request_type("teacher_service_pb2", "TeacherService", "Score")

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(messages(descriptor), min_size=1, max_size=3), st.booleans())
    def check(requests: list[Any], known: bool) -> None:
        if known:
            for request in requests:
                request.request_id, request.teacher = "r", TEACHER.name
                request.temperature = request.temperature or 1.0
        start = time.monotonic()
        try:
            for response in stubs["teacher"].Score(iter(requests), timeout=SECONDS):
                assert response.request_id == "r"
        except grpc.RpcError as error:
            assert error.code() in REFUSALS, f"{error.code().name}: {error.details()}"
            assert error.details()
        assert time.monotonic() - start < SECONDS

    check()


def test_the_servers_still_answer(stubs: dict[str, Any]) -> None:
    for server, method in (
        ("hub", "ListActors"),
        ("environment", "Describe"),
        ("verifier", "Describe"),
        ("teacher", "Describe"),
    ):
        descriptor = request_type(f"{server}_service_pb2", SERVICES[server], method)
        assert getattr(stubs[server], method)(GetMessageClass(descriptor)(), timeout=SECONDS) is not None
