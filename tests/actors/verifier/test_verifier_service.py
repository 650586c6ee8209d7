"""The verifier server over a real channel: what a caller sees."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rlserve.actors.verifier.client import VerifierClient, until_result
from rlserve.actors.verifier.main import RunningVerifier, checked_names, verifier_server
from rlserve.actors.verifier.service import MAX_COMPLETIONS, SERVICE_NAME
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, PluginFailed, UnknownName
from rlserve.records import FailureKind, Outcome
from rlserve.rpc.channel import call, open_channel
from rlserve.v1 import verifier_service_pb2 as pb
from rlserve.v1 import verifier_service_pb2_grpc as pb_grpc

pytestmark = pytest.mark.usefixtures("odd_plugins")

GOLD = json.dumps({"answer": "42"}).encode()


@asynccontextmanager
async def served(*names: str, **config: Any) -> AsyncIterator[tuple[VerifierClient, RunningVerifier]]:
    async with (
        verifier_server(VerifierConfig(**config), names=names) as running,
        VerifierClient(running.server.address) as client,
    ):
        yield client, running


async def test_completions_of_a_task_are_judged_together_and_in_order() -> None:
    async with served("math", "exact") as (client, _):
        verdicts = await client.verify("math", ["\\boxed{42}", "41", "", "\ud800", "#### 42.0"], GOLD)
        assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.0, 0.0, 1.0]
        assert {verdict.verifier for verdict in verdicts} == {"math"}
        assert "decided by: number" in verdicts[-1].reason


async def test_describe_names_what_works_with_its_limits() -> None:
    async with served("odd", "blaming", "broken", limit_seconds=2.0) as (client, _):
        described = {spec.name: spec for spec in await client.describe()}
        assert set(described) == {"odd", "blaming"}
        assert (described["odd"].version, described["odd"].reward_range) == ("7", (0.0, 1e9))
        assert (described["odd"].limit_seconds, described["blaming"].limit_seconds) == (2.0, 0.8)
        with pytest.raises(PluginFailed, match="no licence"):
            await client.verify("broken", ["x"], b"")


async def test_a_broken_verifier_is_no_verdict_and_never_a_reward() -> None:
    async with served("odd") as (client, _):
        verdicts = await client.verify("odd", ["raise a fit", "abc"], b"")
        assert verdicts[0].outcome is Outcome.NO_VERDICT
        assert verdicts[0].failure is not None and verdicts[0].failure.kind is FailureKind.INTERNAL
        assert re.fullmatch(r"RuntimeError: a fit \(odd_verifiers\.py:\d+\)", verdicts[0].reason)
        assert verdicts[1].reward == 3.0


async def test_a_malformed_payload_is_no_verdict_that_nobody_should_retry() -> None:
    async with served("math") as (client, _):
        (verdict,) = await client.verify("math", ["42"], b"{}")
        assert verdict.failure is not None
        assert (verdict.failure.kind, verdict.failure.retriable) == (FailureKind.INVALID, False)


async def test_an_unknown_verifier_lists_the_known_ones() -> None:
    async with served("exact", "odd") as (client, _):
        with pytest.raises(UnknownName, match="known: exact, odd"):
            await client.verify("exactt", ["42"], GOLD)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.VerifyRequest(completions=[b"x"]), "verifier"),
        (pb.VerifyRequest(verifier="odd", completions=[b"ok", b"\xff"]), "completions[1]"),
        (pb.VerifyRequest(verifier="odd", completions=[b"x" * 2000]), "completions[0]"),
        (pb.VerifyRequest(verifier="odd", payload=b"x" * 2000), "payload"),
        (pb.VerifyRequest(verifier="odd", prompt="x" * 2000), "prompt"),
        (pb.VerifyRequest(verifier="odd", completions=[b""] * (MAX_COMPLETIONS + 1)), "completions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_request_out_of_bounds_is_refused_with_its_field(request_: pb.VerifyRequest, field: str) -> None:
    async with served("odd", max_completion_bytes=1024) as (_, running):
        async with open_channel(running.server.address) as channel:
            with pytest.raises(InvalidRequest) as caught:
                verify = until_result(pb_grpc.VerifierServiceStub(channel), lambda: None)
                await call(verify, request_, deadline_seconds=5, what="verifier")
        assert caught.value.field == field


async def test_a_full_queue_refuses_at_once_and_takes_work_again_afterwards() -> None:
    async with served("odd", max_queue=4, limit_seconds=30) as (client, running):
        held = asyncio.create_task(client.verify("odd", ["sleep 1"] * 4, b""))
        async with asyncio.timeout(10):
            while running.service.num_queued < 4:
                await asyncio.sleep(0.01)
        with pytest.raises(LimitExceeded, match="verifier queue"):
            await client.verify("odd", ["a"], b"")
        assert [verdict.has_reward for verdict in await held] == [True] * 4
        assert (await client.verify("odd", ["a"], b""))[0].reward == 1.0


async def test_patience_begins_anew_while_the_queue_moves() -> None:
    """Six times as long as its patience: what others have judged shows that its turn will come."""
    async with served("odd", workers=1, limit_seconds=30, attempts=1) as (client, running):
        ahead = [asyncio.create_task(client.verify("odd", ["sleep 0.5"], b"")) for _ in range(12)]
        async with asyncio.timeout(30):
            while running.service.num_queued < len(ahead):
                await asyncio.sleep(0.01)
        assert (await client.verify("odd", ["a"], b"", deadline_seconds=3.0))[0].reward == 1.0
        await asyncio.gather(*ahead)


async def test_more_completions_than_a_queue_takes_are_refused_for_good() -> None:
    async with served("odd", max_queue=2) as (client, _):
        with pytest.raises(InvalidRequest, match=r"completions: are 3; at most 2 .*verifier\.max_queue"):
            await client.verify("odd", ["a"] * 3, b"")


async def test_a_caller_whose_deadline_passes_gets_its_workers_back() -> None:
    async with served("odd", workers=1, limit_seconds=60) as (client, running):
        with pytest.raises(DeadlineExceeded):
            await client.verify("odd", ["hang"], b"", deadline_seconds=0.3)
        async with asyncio.timeout(10):
            assert (await client.verify("odd", ["abc"], b""))[0].reward == 3.0
        assert running.service.num_queued == 0


async def test_health_answers_while_every_worker_is_stuck() -> None:
    async with served("odd", workers=1, spares=0, limit_seconds=2, attempts=1) as (client, running):
        stuck = asyncio.create_task(client.verify("odd", ["spin"], b""))
        await asyncio.sleep(0.2)
        async with open_channel(running.server.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=1
            )
            assert (await check).status == health_pb2.HealthCheckResponse.SERVING
        assert not (await stuck)[0].has_reward


async def test_the_server_survives_hostile_completions_mixed_with_honest_ones() -> None:
    hostile = [
        "9^{9^{9}}",
        "(" * 100_000,
        "\\boxed{\\int_0^1 e^{-x^{x^{x}}}\\,dx}",
        "\x00\ud800",
        "$" * 1000,
        "1," * 50_000,
    ]
    async with served("math", workers=2) as (client, running):
        honest = ["\\boxed{42}"] * len(hostile)
        mixed = [text for pair in zip(hostile, honest, strict=True) for text in pair]
        for verdicts in await asyncio.gather(*(client.verify("math", mixed, GOLD) for _ in range(3))):
            assert [verdict.reward for verdict in verdicts] == [0.0, 1.0] * len(hostile)
        assert running.pool.counts["lost"] == 0


def test_names_default_to_all_registered_and_must_be_registered() -> None:
    assert {"exact", "math", "regex", "odd"} <= set(checked_names([]))
    assert checked_names(["math"]) == ["math"]
    with pytest.raises(UnknownName, match="'maths' is not registered"):
        checked_names(["maths"])
