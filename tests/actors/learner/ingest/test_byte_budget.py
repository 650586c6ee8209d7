"""Bytes that streams share."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.actors.learner.ingest.byte_budget import ByteBudget


async def test_who_finds_none_left_waits_in_line_and_is_not_overtaken() -> None:
    budget = ByteBudget(10)
    await budget.take(6)
    large, small = asyncio.create_task(budget.take(8)), asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    assert not large.done() and not small.done()
    budget.give(6)
    await asyncio.sleep(0)
    assert large.done() and small.done() and budget.held == 9


async def test_who_gives_up_waiting_takes_nothing_and_lets_others_pass() -> None:
    budget = ByteBudget(10)
    await budget.take(6)
    large, small = asyncio.create_task(budget.take(8)), asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    large.cancel()
    await small
    assert budget.held == 7


async def test_bytes_given_back_after_a_cancellation_pass_the_turn_over() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    waiting = asyncio.create_task(budget.take(5))
    await asyncio.sleep(0)
    waiting.cancel()
    budget.give(10)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.held == 0


async def test_a_turn_that_comes_with_the_cancellation_is_given_back() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    waiting = asyncio.create_task(budget.take(5))
    await asyncio.sleep(0)
    budget.give(10)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.held == 0


@given(st.lists(st.tuples(st.integers(1, 10), st.booleans(), st.integers(0, 3)), max_size=30))
def test_no_more_is_ever_held_than_there_is_and_all_comes_back(users: list[tuple[int, bool, int]]) -> None:
    async def run() -> None:
        budget = ByteBudget(10)

        async def use(count: int, pauses: int) -> None:
            await budget.take(count)
            assert budget.held <= 10
            try:
                for _ in range(pauses):
                    await asyncio.sleep(0)
            finally:
                budget.give(count)

        tasks = [asyncio.create_task(use(count, pauses)) for count, _, pauses in users]
        await asyncio.sleep(0)
        for task, (_, cancelled, _) in zip(tasks, users, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.held == 0

    asyncio.run(run())
