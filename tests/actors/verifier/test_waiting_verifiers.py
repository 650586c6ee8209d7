"""Verifiers that wait: many completions at once in one process, which may die, block or be left by its callers."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlserve.actors.verifier import waiting
from rlserve.actors.verifier.pool import VerifierPool
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.records import FailureKind, Verdict

pytestmark = pytest.mark.usefixtures("odd_plugins")


@asynccontextmanager
async def pool_of(options: dict[str, Any] | None = None, **limits: Any) -> AsyncIterator[VerifierPool]:
    limits = {"workers": 1, "spares": 0, **limits}
    async with VerifierPool({"waiting": options or {}, "odd": {}}, VerifierConfig(**limits)) as pool:
        yield pool


def kinds(verdicts: list[Verdict]) -> list[FailureKind | None]:
    return [verdict.failure.kind if verdict.failure else None for verdict in verdicts]


async def test_all_wait_at_once_whatever_the_number_of_workers() -> None:
    async with pool_of() as pool:
        verdicts = await pool.verify_all("waiting", ["meet 48"] * 48, b"")
        assert [verdict.reward for verdict in verdicts] == [1.0] * 48
        assert pool.counts["lost"] == 0
        assert (await pool.verify("odd", "abc", b"")).reward == 3.0


async def test_no_more_than_its_concurrency_wait_and_the_limit_begins_with_the_place() -> None:
    async with pool_of({"concurrency": 2, "limit_seconds": 2.0}) as pool:
        verdicts = await pool.verify_all("waiting", ["sleep 0.5"] * 12, b"")  # three seconds in all
        assert None not in [verdict.reward for verdict in verdicts if verdict.has_reward] and len(verdicts) == 12
        assert kinds(verdicts) == [None] * 12
        assert (await pool.verify("waiting", "most", b"")).reward == 2.0


async def test_one_that_takes_too_long_and_one_that_fails_cost_nobody_else_a_verdict() -> None:
    async with pool_of({"limit_seconds": 1.0}) as pool:
        verdicts = await pool.verify_all("waiting", ["sleep 60", "raise a fit", "reward 1e30", "abc"], b"")
        expected = [FailureKind.UNAVAILABLE, FailureKind.INTERNAL, FailureKind.INTERNAL, None]
        assert kinds(verdicts) == expected, verdicts
        assert "not verified within 1 s" in verdicts[0].reason
        assert verdicts[1].reason.startswith("RuntimeError: a fit (odd_verifiers.py:")
        assert "reward_range" in verdicts[2].reason
        assert pool.counts["started"] == 2, "its process and the pool's one worker"


@pytest.mark.parametrize("word", ["exit", "segfault", "forge"])
async def test_a_process_that_always_dies_is_no_verdict_after_the_attempts(word: str) -> None:
    async with pool_of() as pool:
        assert kinds(await pool.verify_all("waiting", [word], b"")) == [FailureKind.UNAVAILABLE]
        assert (await pool.verify("waiting", "abc", b"")).reward == 3.0


async def test_a_process_that_was_killed_is_replaced_and_costs_no_verdict(tmp_path: Path) -> None:
    async with pool_of() as pool:
        waiting_pids = set(pool.pids)
        judging = asyncio.create_task(pool.verify_all("waiting", ["sleep 1"] * 8, b""))
        while not (started := set(pool.pids) - waiting_pids):
            await asyncio.sleep(0.01)
        os.kill(started.pop(), signal.SIGKILL)
        assert kinds(await judging) == [None] * 8


async def test_a_process_that_stands_still_is_killed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STUCK_SECONDS", 0.5)
    async with pool_of({"limit_seconds": 0.25}, attempts=1) as pool:
        await pool.verify("waiting", "abc", b"")
        verdict = await pool.verify("waiting", "hang", b"")
        assert "was stuck" in verdict.reason and "event loop" in verdict.reason
        assert (await pool.verify("waiting", "abc", b"")).has_reward


async def test_a_caller_that_leaves_frees_its_places() -> None:
    async with pool_of({"concurrency": 2}) as pool:
        judging = asyncio.create_task(pool.verify_all("waiting", ["sleep 600"] * 2, b""))
        while (await asyncio.wait({judging}, timeout=0.2))[0]:
            pass
        judging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await judging
        async with asyncio.timeout(60):
            while (await pool.verify("waiting", "here", b"")).reward > 1.0:
                await asyncio.sleep(0.01)


async def test_a_closed_pool_leaves_no_process() -> None:
    async with pool_of() as pool:
        await pool.verify("waiting", "abc", b"")
        pids = pool.pids
        assert len(pids) >= 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
