"""Programs and answers judged a second: in the warm sandbox, and in bare processes as most harnesses run them."""

import asyncio
import json
import resource
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rlserve.actors.verifier.pool import VerifierPool
from rlserve.bench.footprint import footprint
from rlserve.bench.verdicts.differential import compare
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.records import Outcome, Verdict
from rlserve.sandbox.walls.tiers import bubblewrap, real_python

WORKERS = 2  # judge processes, and bare processes at a time: the cores of the machine of the published figures
SECONDS = 4.0
"""Length of each measurement. Any value of this size will do: it takes hundreds of verdicts."""

PROGRAM = """
def closest(numbers):
    numbers = sorted(numbers)
    return min((b - a, a, b) for a, b in zip(numbers, numbers[1:]))[1:]

input()
print(*closest(list(map(int, input().split()))))
"""
STDIO = {"kind": "stdio", "extract": False, "tests": [{"input": "5\n9 1 14 30 12\n", "output": "12 14"}]}
FUNCTION = {
    "kind": "function",
    "extract": False,
    "entry_point": "closest",
    "tests": "def check(candidate):\n"
    + "".join(f"    assert candidate([{a}, {a + 7}, {a + 3}, 90]) == ({a}, {a + 3})\n" for a in range(8))
    + "check(closest)\n",
}
FUNCTION_PROGRAM = PROGRAM.partition("input()")[0]
MATH = [("42", "The answer is \\boxed{42}."), ("\\frac{3}{4}", "so \\boxed{0.75}"), ("(1,2]", "\\boxed{(1, 2]}")]


def measure(
    *, only: Sequence[str] = (), answers: Sequence[str] = (), pairs: int = 0, out: str = "", workers: int = WORKERS
) -> dict[str, object]:
    """Rates over 2 judge processes, latencies of single requests, memory; ratios to bare processes in the same run.

    ``only`` with ``differential`` compares verdicts on ``pairs`` pairs of answers with those of math-verify instead.
    """
    numbers: dict[str, object] = {}
    if "rates" in only or "differential" not in only:
        numbers |= asyncio.run(_measure())
    if "differential" in only:
        numbers["differential"] = compare(answers=answers, pairs=pairs, out=out, workers=workers)
    return numbers


async def _measure() -> dict[str, object]:
    options: dict[str, dict[str, object]] = {"code": {}, "math": {}}
    numbers: dict[str, object] = {}
    async with VerifierPool(options, VerifierConfig(workers=WORKERS, spares=0)) as pool:
        while pool.num_ready < WORKERS:
            await asyncio.sleep(0.05)
        numbers["isolation"] = pool.specs["code"].isolation
        numbers["stdio"] = stdio = await _rates(lambda: _judge(pool, "code", PROGRAM, STDIO))
        numbers["function"] = function = await _rates(lambda: _judge(pool, "code", FUNCTION_PROGRAM, FUNCTION))
        turn = iter(range(10**9))  # each request takes the next of the answers

        async def answer() -> Verdict:
            gold, text = MATH[next(turn) % len(MATH)]
            return await _judge(pool, "math", text, {"answer": gold})

        numbers["math"] = await _rates(answer)
        numbers["megabytes_a_worker"] = round(footprint(pool.pids).unshared_bytes / len(pool.pids) / 2**20)
    bare = _bare_rate()
    numbers["bare_process_per_second"] = bare
    if bubblewrap() is not None:
        numbers["bare_bubblewrap_per_second"] = _bare_rate(_bubblewrap_command())
    numbers["stdio_over_bare_process"] = stdio["per_second"] / bare
    numbers["function_over_bare_process"] = function["per_second"] / bare
    return numbers


async def _judge(pool: VerifierPool, verifier: str, completion: str, payload: dict[str, object]) -> Verdict:
    return await pool.verify(verifier, completion, json.dumps(payload).encode())


async def _rates(judge: Callable[[], Awaitable[Verdict]]) -> dict[str, float]:
    """Verdicts a second with all judge processes busy; latencies of one request at a time."""
    for _ in range(4):  # the first ones pay for imports in each process
        assert (await judge()).outcome is Outcome.PASS
    latencies: list[float] = []
    deadline = time.perf_counter() + SECONDS / 2
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        await judge()
        latencies.append(time.perf_counter() - start)
    done = 0
    start = time.perf_counter()

    async def keep_busy() -> None:
        nonlocal done
        while time.perf_counter() < start + SECONDS:
            assert (await judge()).outcome is Outcome.PASS
            done += 1

    # Twice as many requests as processes: the next one is there when a process becomes free.
    await asyncio.gather(*(keep_busy() for _ in range(2 * WORKERS)))
    return {"per_second": done / (time.perf_counter() - start)} | _latencies(latencies)


def _latencies(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


def _bare_rate(prefix: Sequence[str] = ()) -> float:
    """Programs a second the way most harnesses run them: a new interpreter with resource limits and no isolation."""
    command = [*prefix, real_python(), "-I", "-S", "-c", PROGRAM]
    test = STDIO["tests"][0]  # type: ignore[index]
    deadline = time.perf_counter() + SECONDS

    def run_until(_: int) -> int:
        done = 0
        while time.perf_counter() < deadline:
            text = test["input"]
            run = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=10, preexec_fn=_limit, check=True
            )
            assert run.stdout.strip() == test["output"]
            done += 1
        return done

    start = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        return sum(threads.map(run_until, range(WORKERS))) / (time.perf_counter() - start)


def _limit() -> None:
    # The default limits of the sandbox.
    resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
    resource.setrlimit(resource.RLIMIT_AS, (768 * 2**20, 768 * 2**20))


def _bubblewrap_command() -> list[str]:
    return [bubblewrap() or "bwrap", "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent"]
