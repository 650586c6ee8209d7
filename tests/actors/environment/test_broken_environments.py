"""An environment that raises, ends, hangs or gives garbage is named with the place, and its server lives on."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rlserve import plugins
from rlserve.actors.environment.client import EnvironmentClient
from rlserve.actors.environment.main import describe, load_environments
from rlserve.actors.environment.service import SERVICE_NAME, EnvironmentService
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.errors import DeadlineExceeded, LimitExceeded, PluginFailed
from rlserve.records import GivenCompletion, Message, Task
from rlserve.rpc.server import serving
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc

HELD = threading.Event()


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def good(**fields: Any) -> Task:
    usual: dict[str, Any] = {
        "environment": "odd",
        "split": "train",
        "index": 0,
        "task_id": "t",
        "prompt": "3+4=",
        "verifier": "exact",
        "payload": b"{}",
    }
    return Task(**usual | fields)


def raises(error: BaseException) -> Any:
    raise error


def divides() -> Any:
    return 1 / 0


TASKS: dict[str, Any] = {
    "good": good,
    "divides": divides,
    "exits": lambda: raises(SystemExit(3)),
    "interrupts": lambda: raises(KeyboardInterrupt()),
    "silent": lambda: raises(Silent()),
    "none": lambda: None,
    "dict": lambda: {"prompt": "3"},
    "no prompt": lambda: good(prompt=None),
    "number": lambda: good(prompt=7),
    "bad role": lambda: good(prompt=(Message(role="wizard", content="x"),)),
    "no messages": lambda: good(prompt=()),
    "text payload": lambda: good(payload="text"),
    "no verifier": lambda: good(verifier=""),
    "negative index": lambda: good(index=-1),
    "huge": lambda: good(prompt="1" * 9_000_000),
    "nan weight": lambda: good(given=(GivenCompletion(text="7", supervised_weight=float("nan")),)),
    "hangs": lambda: HELD.wait(30),
}
FAULTS = sorted(set(TASKS) - {"good", "hangs"})


class Odd:
    """Its split says what its tasks are."""

    name = "odd"
    version = "1"
    verifier = "exact"

    @property
    def splits(self) -> Mapping[str, int]:
        return dict.fromkeys(TASKS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        task: Task = TASKS[split]()
        return task


class Splitless(Odd):
    name = "splitless"

    @property
    def splits(self) -> Mapping[str, int]:
        raise FileNotFoundError("rows.jsonl")


@asynccontextmanager
async def served() -> AsyncIterator[EnvironmentClient]:
    service = EnvironmentService({"odd": Odd(), "splitless": Splitless()}, {})
    async with (
        serving(
            lambda server: pb_grpc.add_EnvironmentServiceServicer_to_server(service, server),
            address="127.0.0.1:0",
            service_names=[SERVICE_NAME],
        ) as server,
        EnvironmentClient(server.address) as client,
    ):
        yield client


@pytest.mark.parametrize("fault", FAULTS)
async def test_garbage_and_exceptions_are_the_environments_failure(fault: str) -> None:
    async with served() as client:
        with pytest.raises(PluginFailed) as caught:
            await client.get_tasks("odd", split=fault)
        assert "environment 'odd': " in str(caught.value)
        assert len(await client.get_tasks("odd", split="good", count=3)) == 3


async def test_the_exception_comes_with_its_place_and_its_traceback_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served() as client:
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                with pytest.raises(
                    PluginFailed, match=r"ZeroDivisionError: division by zero \(.*/test_broken_env.*:\d+\)"
                ):
                    await client.get_tasks("odd", split="divides")
        (record,) = [r for r in caplog.records if "'odd' failed" in r.getMessage()]
        assert record.exc_info is not None
        with pytest.raises(PluginFailed, match=r"environment 'splitless': FileNotFoundError: rows.jsonl \(.*:\d+\)"):
            await client.get_tasks("splitless")


async def test_one_that_hangs_is_named_with_its_place_and_holds_up_nobody() -> None:
    HELD.clear()
    async with served() as client:
        try:
            hanging = asyncio.create_task(client.get_tasks("odd", split="hangs", deadline_seconds=4.0))
            await asyncio.sleep(0)
            with pytest.raises(PluginFailed):  # another environment's thread
                await client.get_tasks("splitless")
            with pytest.raises(
                DeadlineExceeded, match=r"'odd': did not give task hangs/0 within .* it is at .*/test_broken_env.*:\d+"
            ):
                await hanging
            assert await client.get_tasks("odd", split="good")
        finally:
            HELD.set()


async def test_more_than_a_message_holds_is_refused_with_what_to_do() -> None:
    TASKS["large"] = lambda: good(prompt="1" * 3_000_000)
    try:
        async with served() as client:
            with pytest.raises(LimitExceeded, match=r"count: 6 tasks have .* request fewer"):
                await client.get_tasks("odd", split="large", count=8)
            assert len(await client.get_tasks("odd", split="large", count=4)) == 4
    finally:
        del TASKS["large"]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": -1}, "make no valid spec"),
        ({"train": "many"}, "make no valid spec"),
        ({"": 3}, "splits: is empty"),
        ({7: 3}, "make no valid spec"),
    ],
)
def test_what_an_environment_says_of_itself_is_checked_at_its_start(splits: Any, words: str) -> None:
    class Strange(Odd):
        pass

    Strange.splits = splits  # type: ignore[method-assign]
    with pytest.raises(PluginFailed, match=f"environment 'odd': .*{words}"):
        describe(Strange(), EnvironmentConfig(name="odd"))


def test_one_whose_properties_raise_is_named_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", lambda *_, **__: Splitless)
    with pytest.raises(PluginFailed, match=r"environments.0: 'splitless': FileNotFoundError: rows.jsonl \(.*:\d+\)"):
        load_environments([EnvironmentConfig(name="splitless")])
