"""The pool: verdicts from processes that hang, die, lie and eat memory."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from rlserve.actors.verifier.pool import VerifierPool
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import PluginFailed, UnknownName
from rlserve.records import FailureKind, Outcome, Verdict

pytestmark = pytest.mark.usefixtures("odd_plugins")

GOLD = json.dumps({"answer": "42"}).encode()


@asynccontextmanager
async def pool_of(*names: str, prepare_all: bool = True, **limits: float) -> AsyncIterator[VerifierPool]:
    config = VerifierConfig(**{"workers": 2, "spares": 1, "limit_seconds": 5.0, **limits})  # type: ignore[arg-type]
    async with VerifierPool({name: {} for name in names}, config, prepare_all=prepare_all) as pool:
        yield pool


async def all_ready(pool: VerifierPool, count: int) -> None:
    async with asyncio.timeout(30):
        while pool.num_ready < count:
            await asyncio.sleep(0.01)


def resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def rewards(verdicts: Sequence[Verdict]) -> list[float | None]:
    return [verdict.reward if verdict.has_reward else None for verdict in verdicts]


def kind_of(verdict: Verdict) -> FailureKind | None:
    return verdict.failure.kind if verdict.failure else None


async def test_verdicts_come_in_the_order_of_the_completions() -> None:
    async with pool_of("odd") as pool:
        texts = ["x" * n for n in range(200)]
        assert rewards(await pool.verify_all("odd", texts, b"")) == list(range(200))
        assert await pool.verify_all("odd", [], b"") == []


async def test_text_payload_and_prompt_arrive_byte_for_byte() -> None:
    async with pool_of("odd") as pool:
        verdict = await pool.verify("odd", "echo \ud800\x00\u00e9", bytes(range(256)), "prompt \u4e16")
        assert verdict.reason == ascii(("\ud800\x00\u00e9", bytes(range(256)), "prompt \u4e16"))


async def test_a_completion_that_hangs_is_no_verdict_and_its_neighbours_are_judged() -> None:
    async with pool_of("odd", limit_seconds=0.3) as pool:
        verdicts = await pool.verify_all("odd", ["a", "hang", "bb", "ccc"], b"")
        assert rewards(verdicts) == [1.0, None, 2.0, 3.0]
        assert kind_of(verdicts[1]) is FailureKind.TIMEOUT
        assert verdicts[1].failure is not None and verdicts[1].failure.retriable
        assert pool.counts["timeouts"] == 2, "tried once more on another worker"


async def test_a_verifier_may_blame_the_text_for_the_time_that_it_takes() -> None:
    async with pool_of("blaming", limit_seconds=600) as pool:
        verdicts = await pool.verify_all("blaming", ["a", "spin"], b"")
        assert [verdict.outcome for verdict in verdicts] == [Outcome.PASS, Outcome.FAIL]
        assert verdicts[1].reason.startswith("timeout")


@pytest.mark.parametrize("reward", ["1.7e308", "1e30", "1.001e9", "-1e7", "nan"])
async def test_a_reward_outside_of_the_declared_range_is_no_verdict(reward: str) -> None:
    async with pool_of("odd", workers=1) as pool:
        verdicts = await pool.verify_all("odd", ["a", f"reward {reward}", "reward 1e9", "reward 0"], b"")
        assert rewards(verdicts) == [1.0, None, 1e9, 0.0]
        failure = verdicts[1].failure
        assert failure is not None and failure.kind is FailureKind.INTERNAL and not failure.retriable
        assert "reward" in failure.message and (reward == "nan" or "0 to 1e+09" in failure.message)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("raise a fit", r"RuntimeError: a fit \(odd_verifiers\.py:\d+\)"),
        ("library", r"JSONDecodeError: .* \(odd_verifiers\.py:\d+\)"),
        ("number", r"TypeError: verify returned float; return a Verdict.*"),
        ("mute", r"MuteError: \(its __str__ raises\) \(odd_verifiers\.py:\d+\)"),
    ],
)
async def test_a_defect_is_named_with_its_line_and_its_traceback_is_logged_once(
    word: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool_of("odd", workers=1) as pool:
        verdicts = await pool.verify_all("odd", [word] * 3, b"")
    assert all(re.fullmatch(message, verdict.reason) for verdict in verdicts), verdicts[0].reason
    assert pool.counts["raised"] == 3
    logged = [record.getMessage() for record in caplog.records if "Traceback" in record.getMessage()]
    assert len(logged) == 1 and "odd" in logged[0]


async def test_a_text_is_not_blamed_for_time_in_which_nothing_was_computed() -> None:
    async with pool_of("blaming", attempts=1) as pool:
        assert kind_of(await pool.verify("blaming", "hang", b"")) is FailureKind.TIMEOUT


async def test_the_limit_holds_for_each_completion_and_not_for_the_request() -> None:
    async with pool_of("odd", workers=1, limit_seconds=0.6) as pool:
        verdicts = await pool.verify_all("odd", ["sleep 0.3"] * 4, b"")
        assert None not in rewards(verdicts)


async def test_a_worker_killed_in_the_middle_of_a_request_costs_no_verdict(tmp_path: Path) -> None:
    async with pool_of("odd") as pool:
        texts = ["a", "bb", f"die-once {tmp_path / 'mark'}", "ccc"]
        assert None not in rewards(await pool.verify_all("odd", texts, b""))
        assert pool.counts["lost"] == 1


async def test_workers_killed_from_outside_at_any_moment_cost_no_verdict() -> None:
    async with pool_of("math", attempts=6) as pool:
        await all_ready(pool, 3)
        judging = asyncio.create_task(pool.verify_all("math", ["\\boxed{\\frac{84}{2}}"] * 2000, GOLD))
        killed = 0
        while killed < 4:
            await asyncio.sleep(0.02)
            for pid in pool.pids[:1]:
                with contextlib.suppress(ProcessLookupError):  # the one before, whose end the loop has not noticed yet
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        assert rewards(await judging) == [1.0] * 2000
        assert pool.counts["lost"] + pool.counts["started"] > 3


async def test_an_idle_worker_that_was_killed_is_replaced_before_it_is_needed() -> None:
    async with pool_of("odd", workers=1, spares=1) as pool:
        await all_ready(pool, 2)
        before = set(pool.pids)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        assert (await pool.verify("odd", "abc", b"")).reward == 3.0
        await all_ready(pool, 2)
        assert before.isdisjoint(pool.pids)
        assert pool.counts["lost"] == 0


@pytest.mark.parametrize("prepare_all", [True, False])
async def test_preparing_a_verifier_counts_for_no_limit_and_happens_once_a_worker(prepare_all: bool) -> None:
    async with pool_of("odd", "slow_to_start", workers=1, spares=0, prepare_all=prepare_all) as pool:
        assert (await pool.verify("odd", "a", b"")).reward == 1.0
        for _ in range(2):
            verdicts = await pool.verify_all("slow_to_start", ["a", "bb", "spin", f"eat {2**25}"], b"")
            assert [verdict.outcome for verdict in verdicts[:3]] == [Outcome.PASS, Outcome.PASS, Outcome.FAIL]
            assert kind_of(verdicts[3]) is FailureKind.RESOURCE
        assert pool.counts["lost"] == 0 and pool.counts["timeouts"] == 2
        assert pool.counts["started"] == 3, "the two that spun were replaced"
        for _ in range(2):
            assert (await pool.verify("slow_to_start", "times prepared", b"")).reward == 1.0


async def test_once_a_verifier_is_used_a_new_worker_prepares_it_before_it_is_ready() -> None:
    async with pool_of("odd", "slow_to_start", workers=1, spares=1, prepare_all=False) as pool:
        await all_ready(pool, 2)
        assert (await pool.verify("slow_to_start", "a", b"")).reward == 1.0
        before = set(pool.pids)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        while before & set(pool.pids):
            await asyncio.sleep(0.01)
        await all_ready(pool, 2)
        ready = {pid: cpu_seconds(pid) for pid in pool.pids}
        assert (await pool.verify("slow_to_start", "times prepared", b"")).reward == 1.0
        assert max(cpu_seconds(pid) - used for pid, used in ready.items()) < 0.7, "preparing takes a second of it"


async def test_a_verifier_that_cannot_be_prepared_says_why_and_takes_nobody_along() -> None:
    async with pool_of("odd", "never_ready", workers=1, prepare_all=False) as pool:
        for verdict in await pool.verify_all("never_ready", ["a", "bb"], b""):
            assert kind_of(verdict) is FailureKind.UNAVAILABLE
            assert verdict.failure is not None and verdict.failure.message == "options.key: is missing; give one"
        assert (await pool.verify("odd", "abc", b"")).reward == 3.0
        assert pool.counts["lost"] == pool.counts["retries"] == 0
    async with pool_of("odd", "never_ready", workers=1) as pool:
        assert pool.specs["never_ready"].error == "NotReady: options.key: is missing; give one"


async def test_preparing_for_ever_ends_after_the_start_seconds() -> None:
    async with pool_of("stuck_at_start", prepare_all=False, start_seconds=4.0, attempts=1) as pool:
        verdict = await pool.verify("stuck_at_start", "a", b"")
        assert kind_of(verdict) is FailureKind.CRASH
        assert verdict.failure is not None and "was not prepared within 4 s" in verdict.failure.message


@pytest.mark.parametrize("word", ["exit", "segfault", "garbage \xff\xff\xff\xff", "garbage ....{", "forge", "close"])
async def test_a_worker_that_dies_or_lies_every_time_is_no_verdict_after_the_attempts(word: str) -> None:
    async with pool_of("odd", workers=1, limit_seconds=1.0) as pool:
        verdicts = await pool.verify_all("odd", ["a", word, "bb"], b"")
        assert rewards(verdicts) == [1.0, None, 2.0]
        assert kind_of(verdicts[1]) in (FailureKind.CRASH, FailureKind.TIMEOUT)
        assert pool.counts["lost"] + pool.counts["timeouts"] == 2


async def test_what_a_verifier_prints_is_no_reply() -> None:
    async with pool_of("odd") as pool:
        assert rewards(await pool.verify_all("odd", ["print", "abc"], b"")) == [5.0, 3.0]
        assert pool.counts["lost"] == 0


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("raise a fit", FailureKind.INTERNAL),
        ("payload", FailureKind.INVALID),
        ("infinite", FailureKind.INTERNAL),
        (f"eat {2**33}", FailureKind.RESOURCE),
    ],
)
async def test_an_error_of_the_verifier_is_no_verdict_and_costs_no_worker(word: str, kind: FailureKind) -> None:
    async with pool_of("odd", workers=1, memory_bytes=256 * 2**20) as pool:
        verdicts = await pool.verify_all("odd", ["a", word, "bb"], b"")
        assert rewards(verdicts) == [1.0, None, 2.0]
        assert kind_of(verdicts[1]) is kind
        assert pool.counts["lost"] == pool.counts["retries"] == 0


async def test_memory_is_limited_beyond_the_size_at_start() -> None:
    async with pool_of("odd", workers=1, memory_bytes=64 * 2**20) as pool:
        assert (await pool.verify("odd", f"eat {2**25}", b"")).has_reward
        assert kind_of(await pool.verify("odd", f"eat {2**27}", b"")) is FailureKind.RESOURCE


async def test_a_worker_sees_nothing_of_the_services_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLSERVE_SECRET_TOKEN", "hunter2")
    async with pool_of("odd") as pool:
        names = (await pool.verify("odd", "environment", b"")).reason.split()
    assert "RLSERVE_SECRET_TOKEN" not in names
    assert set(names) <= {"PATH", "PYTHONPATH", "PYTHONHASHSEED", "LC_ALL", "LC_CTYPE", "OMP_NUM_THREADS"}


async def test_workers_are_recycled_after_their_completions_and_when_they_have_grown() -> None:
    async with pool_of("odd", workers=1, spares=1, recycle_completions=10) as pool:
        first = (await pool.verify("odd", "pid", b"")).reward
        await pool.verify_all("odd", ["a"] * 10, b"")
        await all_ready(pool, 2)
        assert first not in pool.pids
        assert pool.counts["recycled"] == 1
    async with pool_of("odd", workers=1, spares=0, recycle_growth_bytes=2**24) as pool:
        pids = [(await pool.verify("odd", f"grow {2**25}", b"")).reward, (await pool.verify("odd", "pid", b"")).reward]
        assert pool.counts["recycled"] == 1, pids


async def test_a_spare_makes_a_kill_cost_no_start() -> None:
    async with pool_of("odd", workers=1, spares=1) as pool:
        await all_ready(pool, 2)
        killed, spare = pool.pids
        os.kill(killed, signal.SIGKILL)
        assert (await pool.verify("odd", "pid", b"")).reward == spare


async def test_a_caller_that_gives_up_frees_its_workers() -> None:
    async with pool_of("odd", workers=2, spares=1, limit_seconds=60) as pool:
        judging = asyncio.create_task(pool.verify_all("odd", ["hang", "hang"], b""))
        await asyncio.sleep(0.2)
        judging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await judging
        async with asyncio.timeout(10):
            assert rewards(await pool.verify_all("odd", ["a", "bb"], b"")) == [1.0, 2.0]


async def test_a_closed_pool_leaves_no_process() -> None:
    async with pool_of("odd") as pool:
        await all_ready(pool, 3)
        pids = pool.pids
        assert len(pids) == 3
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_workers_die_with_the_service_also_when_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, json\n"
        "from rlserve.actors.verifier.pool import VerifierPool\n"
        "async def main():\n"
        "    async with VerifierPool({'exact': {}}) as pool:\n"
        "        while pool.num_ready < 3: await asyncio.sleep(0.01)\n"
        "        print(json.dumps(pool.pids), flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    service = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    pids = json.loads(service.stdout.readline())
    service.kill()
    service.wait()
    service.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(psutil.pid_exists, pids)):
        time.sleep(0.01)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def test_one_broken_plug_in_is_an_error_by_name_and_the_others_serve() -> None:
    async with pool_of("odd", "broken") as pool:
        assert (await pool.verify("odd", "abc", b"")).reward == 3.0
        with pytest.raises(PluginFailed, match="no licence"):
            await pool.verify("broken", "abc", b"")
        with pytest.raises(UnknownName, match="known: broken, odd"):
            await pool.verify("od", "abc", b"")


async def test_a_pool_in_which_nothing_loads_does_not_start() -> None:
    with pytest.raises(PluginFailed, match="none can be loaded"):
        async with pool_of("broken"):
            pass


async def test_100_kb_of_anything_is_judged_within_the_limit_of_processor_time_and_512_mb() -> None:
    texts = [
        "\\boxed{" + "9" * 100_000 + "}",
        "\\boxed{\\int_0^1 e^{-x^{x^{x}}}\\,dx}",
        "\\boxed{\\prod_{k=1}^{10^9} k}",
        "\\boxed{\\sum_{k=1}^{10^{12}} \\binom{10^{6}}{k}}",
        "\\boxed{\\lim_{x\\to\\infty} x^{x^{x}}}",
        "\\boxed{9^{9^{9^{9}}}}",
        "(" * 100_000,
        "x+" * 50_000,
    ]
    async with pool_of("math", workers=1, spares=1) as pool:
        await all_ready(pool, 2)
        peak = 0
        for text in texts:
            before = {pid: cpu_seconds(pid) for pid in pool.pids}
            used = 0.0
            judging = asyncio.create_task(pool.verify("math", text, GOLD))
            while not judging.done():
                peak = max(peak, *map(resident_bytes, pool.pids))
                for pid in before:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        used = max(used, cpu_seconds(pid) - before[pid])
                await asyncio.sleep(0.01)
            verdict = await judging
            assert verdict.outcome is Outcome.FAIL, (text[:40], verdict)
            assert used < 1.25 * pool.specs["math"].limit_seconds, text[:40]
            await all_ready(pool, 1)
        assert peak < 512 * 2**20


async def test_cheap_verdicts_come_by_the_thousand() -> None:
    payload = json.dumps({"answer": "6", "marker": "#"}).encode()
    async with pool_of("exact") as pool:
        await all_ready(pool, 3)
        for _ in range(10):
            requests = [pool.verify_all("exact", ["3+8=1;1+5=6;#6"] * 8, payload) for _ in range(20)]
            assert all(verdict.reward == 1.0 for verdicts in await asyncio.gather(*requests) for verdict in verdicts)
        assert pool.counts["verdicts"] == pool.num_judged == 1600
