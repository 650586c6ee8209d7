"""Multi-turn episodes of a real environment server over a real channel."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from odd_episodes import RELEASED, OddEnvironment

from rlserve.actors.environment.main import describe
from rlserve.actors.environment.service import SERVICE_NAME, EnvironmentService
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.environments.guess import GuessEnvironment
from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, PluginFailed, UnknownName
from rlserve.records import Outcome, Task, Turn
from rlserve.rpc import codec
from rlserve.rpc.channel import open_channel, rpc_errors
from rlserve.rpc.server import serving
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc


class Site:
    """A server and a channel to it."""

    def __init__(self, stub: Any, service: EnvironmentService) -> None:
        self.stub = stub
        self.service = service
        self.odd = OddEnvironment()

    async def play(self, task: Task, texts: Sequence[str]) -> list[Turn]:
        """The answers to ``texts``; raises what the server raises."""
        return await self.talk(opening(task), *map(turn, texts))

    async def talk(self, *requests: pb.EpisodeRequest) -> list[Turn]:
        call = self.stub.Episode(iter(requests), timeout=10)
        with rpc_errors("environment server"):
            return [codec.turn_from_proto(response) async for response in call]

    async def until_running(self, number: int) -> None:
        async with asyncio.timeout(5):
            while self.service.episodes.num_running != number:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def site(**limits: Any) -> AsyncIterator[Site]:
    odd, guess = OddEnvironment(), GuessEnvironment(max_number=7, turns=3)
    service = EnvironmentService({"odd": odd, "guess": guess}, {}, EpisodesConfig(**limits))
    add = functools.partial(pb_grpc.add_EnvironmentServiceServicer_to_server, service)
    async with serving(add, service_names=[SERVICE_NAME]) as server, open_channel(server.address) as channel:
        running = Site(pb_grpc.EnvironmentServiceStub(channel), service)
        running.odd = odd
        yield running


def opening(task: Task) -> pb.EpisodeRequest:
    return pb.EpisodeRequest(open=pb.EpisodeOpen(task=codec.task_to_proto(task), episode_id="e"))


def turn(text: str) -> pb.EpisodeRequest:
    return pb.EpisodeRequest(turn=pb.PolicyTurn(text=text))


CANCEL = pb.EpisodeRequest(cancel=pb.EpisodeCancel(reason="tokens used up"))
ODD = OddEnvironment().task("train", 3, 7)
GUESS = GuessEnvironment(max_number=7, turns=3)


async def test_turns_alternate_until_the_environment_says_done() -> None:
    async with site() as server:
        answers = await server.play(ODD, ["echo", "done", "never read"])
        assert [(a.messages[0].content, a.done) for a in answers] == [
            ('{"answer": "3"} echo', False),
            ('{"answer": "3"} done', True),
        ]
        await server.until_running(0)
        assert server.odd.closed == [ODD.task_id]
        assert len(server.odd.threads) == 1


async def test_an_episode_follows_from_task_and_texts_alone() -> None:
    texts = ["3", "nothing", "5"]
    async with site() as first, site() as second:
        lasts = []
        for index in range(20):
            answers = await first.play(GUESS.task("train", index, 11), texts)
            assert answers == await second.play(GUESS.task("train", index, 11), texts)
            lasts.append(answers[-1].verdict)
    assert {verdict.outcome for verdict in lasts if verdict} == {Outcome.PASS, Outcome.FAIL}


@pytest.mark.parametrize(
    ("requests", "error", "complaint"),
    [
        ((turn("echo"),), InvalidRequest, "is turn; the first request"),
        ((CANCEL,), InvalidRequest, "is cancel; the first request"),
        ((pb.EpisodeRequest(),), InvalidRequest, "is unset; the first request"),
        ((opening(ODD), opening(ODD)), InvalidRequest, "is open in an open episode"),
        ((opening(ODD), pb.EpisodeRequest()), InvalidRequest, "is unset in an open episode"),
    ],
)
async def test_requests_out_of_order_are_refused(
    requests: Sequence[pb.EpisodeRequest], error: type[Exception], complaint: str
) -> None:
    async with site() as server:
        with pytest.raises(error, match=complaint):
            await server.talk(*requests)
        await server.until_running(0)


def changed(**fields: Any) -> Task:
    return replace(ODD, **fields)


@pytest.mark.parametrize(
    ("task", "error", "complaint"),
    [
        (changed(payload=b'{"answer": "mine"}'), InvalidRequest, r"open\.task\.payload"),
        (changed(prompt="an easier one"), InvalidRequest, r"open\.task\.prompt"),
        (changed(environment_version="2"), InvalidRequest, r"open\.task\.environment_version"),
        (changed(index=4), InvalidRequest, r"open\.task\.task_id"),
        (changed(environment="even"), UnknownName, "known: guess, odd"),
        (changed(multi_turn=False), InvalidRequest, r"open\.task\.multi_turn"),
    ],
)
async def test_a_task_that_the_environment_did_not_give_is_refused(
    task: Task, error: type[Exception], complaint: str
) -> None:
    async with site() as server:
        with pytest.raises(error, match=complaint):
            await server.play(task, ["echo"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("raise", "'odd': KeyError: 'inventory'"),
        ("exit", "'odd': SystemExit"),
        ("nonsense", "'odd': TypeError: step.. returned tuple"),
        ("bad-role", "'odd': InvalidRequest: .*wizard"),
    ],
)
async def test_whatever_breaks_in_a_plug_in_names_the_environment(text: str, complaint: str) -> None:
    async with site() as server:
        with pytest.raises(PluginFailed, match=complaint):
            await server.play(ODD, ["echo", text])
        await server.until_running(0)
        assert server.odd.closed == [ODD.task_id]


async def test_a_turn_that_hangs_ends_at_its_deadline_and_holds_its_place_until_it_returns() -> None:
    RELEASED.clear()
    async with site(turn_seconds=0.1, max_episodes=1) as server:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"'odd': gave no answer within episodes\.turn_seconds = 0\.1"):
            await server.play(ODD, ["hang"])
        assert time.monotonic() - started < 2
        with pytest.raises(LimitExceeded, match=r"episodes\.max_episodes: 1 are open"):
            await server.play(ODD, ["echo"])
        RELEASED.set()
        await server.until_running(0)
        assert await server.play(ODD, ["done"])


async def test_a_policy_that_says_nothing_is_not_waited_for_for_ever() -> None:
    hold: asyncio.Queue[pb.EpisodeRequest] = asyncio.Queue()

    async def requests() -> AsyncIterator[pb.EpisodeRequest]:
        yield opening(ODD)
        yield await hold.get()

    async with site(idle_seconds=0.1) as server:
        with pytest.raises(DeadlineExceeded, match=r"'odd'.* no turn within episodes\.idle_seconds"):
            await read_all(server.stub.Episode(requests()))
        await server.until_running(0)
        assert server.odd.closed == [ODD.task_id]


async def test_the_whole_episode_has_a_deadline_too() -> None:
    async with site(episode_seconds=0.3, turn_seconds=0.3) as server:
        with pytest.raises(DeadlineExceeded, match=r"longer than episodes\.episode_seconds = 0\.3"):
            await server.play(ODD, ["sleep 0.1"] * 9)


async def test_a_cancelled_episode_is_closed() -> None:
    async with site() as server:
        assert len(await server.talk(opening(ODD), turn("echo"), CANCEL)) == 1
        await server.until_running(0)
        assert server.odd.closed == [ODD.task_id]


async def test_a_client_that_leaves_frees_its_place() -> None:
    async with site(max_episodes=1) as server:
        queue: asyncio.Queue[pb.EpisodeRequest] = asyncio.Queue()
        call = server.stub.Episode(stream_of(queue.get))
        for request in (opening(ODD), turn("echo")):
            queue.put_nowait(request)
        assert await call.read() is not grpc.aio.EOF
        assert server.service.episodes.num_running == 1
        call.cancel()
        await server.until_running(0)
        assert server.odd.closed == [ODD.task_id]


def test_the_hub_is_told_that_an_environment_answers_turns() -> None:
    assert describe(GUESS, EnvironmentConfig(name="guess")).multi_turn


async def stream_of(get: Callable[[], Any]) -> AsyncIterator[pb.EpisodeRequest]:
    while True:
        yield await get()


async def read_all(call: Any) -> list[Any]:
    with rpc_errors("environment server"):
        return [response async for response in call]
