"""Judges thousands of hostile and honest programs in a row: what leaks, what slows down, which verdicts are wrong."""

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from rlserve.actors.verifier.pool import VerifierPool
from rlserve.bench.footprint import footprint
from rlserve.bench.verifier import FUNCTION, FUNCTION_PROGRAM, PROGRAM, STDIO
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.records import Outcome, Verdict
from rlserve.sandbox.walls.tiers import UID_BASES

PROGRAMS = 5000  # any value of this size will do: what one box in a hundred leaks becomes visible
WORKERS = 2  # judge processes: the cores of the machine of the published figures
QUIET = 200  # honest programs before the hostile ones; their 99th percentile is the second slowest
SLOW_SHARE = 0.005  # of all programs: each costs its whole limit, so that they would otherwise take most of the time
SETTLE_SECONDS = 0.5  # after the last verdict, until its box is gone; that takes milliseconds
OPTIONS = {"cpu_seconds": 1.0, "wall_seconds": 1.5, "memory_bytes": 256 * 2**20}

HONEST = [(PROGRAM, STDIO), (FUNCTION_PROGRAM, FUNCTION)]
# Each tries one thing: to end early with success, to exhaust memory, output, processes, threads, disk or descriptors,
# to kill others, to crash, to forge a verdict, to delete files, to connect, to equal everything, to break the compiler.
HOSTILE = [
    "import os\nos._exit(0)",
    "import sys\nsys.exit(0)",
    "raise SystemExit",
    "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "while True: print('x' * 4096)",
    "import os\ntry:\n    while True: os.fork()\nexcept OSError: pass",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(600)",
    "import threading, time\ntry:\n"
    "    while True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nexcept RuntimeError: pass",
    "i = 0\nwhile True:\n    open(f'/tmp/{i}', 'wb').write(bytes(1 << 20)); i += 1",
    "import os\nwhile True: os.open('/dev/null', 0)",
    "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import ctypes\nctypes.string_at(0)",
    "import os\nfor fd in range(64):\n    try: os.write(fd, b'pass' * 99)\n    except OSError: pass\nos._exit(0)",
    "import shutil\nshutil.rmtree('/', ignore_errors=True)",
    "import socket\nsocket.create_connection(('127.0.0.1', 22))",
    "class Yes:\n    def __eq__(self, other): return True\ndef closest(numbers): return Yes()",
    "import gc\ngc.collect()\nraise MemoryError",
    "(" * 9999,
]
SLOW = ["while True: pass", "import time\ntime.sleep(99)", "import signal\nsignal.pause()"]
"""Programs that run into their time limit, see SLOW_SHARE."""


@dataclass(slots=True)
class _Tally:
    """Counts and times of the verdicts so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    honest_failed: int = 0
    hostile_passed: int = 0
    quiet_ms: list[float] = field(default_factory=list)
    honest_ms: list[float] = field(default_factory=list)


def measure(programs: int = PROGRAMS) -> dict[str, object]:
    """Judge programs, half of them honest and half hostile, in random order; report what is left behind."""
    return asyncio.run(_measure(programs))


async def _measure(programs: int) -> dict[str, object]:
    rng = random.Random(0)
    tally = _Tally()
    limits = VerifierConfig(workers=WORKERS, spares=0)
    files = _scratch_files()
    async with VerifierPool({"code": OPTIONS}, limits) as pool:
        while pool.num_ready < WORKERS:
            await asyncio.sleep(0.05)
        for _ in range(QUIET):
            tally.quiet_ms.append(await _honest(pool, rng, tally))
        before = _state(pool)
        start = time.perf_counter()
        slots = asyncio.Semaphore(WORKERS)
        await asyncio.gather(*(_one(pool, slots, rng.random(), rng, tally) for _ in range(programs)))
        seconds = time.perf_counter() - start
        await asyncio.sleep(SETTLE_SECONDS)
        after = _state(pool)
        lost = pool.counts["lost"]
    quiet, soaked = _p99(tally.quiet_ms), _p99(tally.honest_ms)
    return {
        "programs": programs,
        "seconds": seconds,
        "outcomes": dict(tally.outcomes),
        "honest_failed": tally.honest_failed,
        "hostile_passed": tally.hostile_passed,
        "workers_lost": lost,
        "processes_left": len(_box_processes()),
        "files_left": len(_scratch_files() - files),
        "mounts_grown": after["mounts"] - before["mounts"],
        "descriptors_grown": after["descriptors"] - before["descriptors"],
        "megabytes_before": before["megabytes"],
        "megabytes_after": after["megabytes"],
        "quiet_p99_ms": quiet,
        "soaked_p99_ms": soaked,
        "soaked_over_quiet_p99": soaked / quiet,
    }


async def _one(pool: VerifierPool, slots: asyncio.Semaphore, kind: float, rng: random.Random, tally: _Tally) -> None:
    async with slots:
        if kind < 0.5:
            tally.honest_ms.append(await _honest(pool, rng, tally))
            return
        program = rng.choice(SLOW) if kind > 1 - SLOW_SHARE else rng.choice(HOSTILE)
        verdict = await _judge(pool, program, rng.choice([STDIO, FUNCTION]))
        tally.outcomes[verdict.outcome.value] += 1
        tally.hostile_passed += verdict.outcome is Outcome.PASS


async def _honest(pool: VerifierPool, rng: random.Random, tally: _Tally) -> float:
    """Judge an honest program; returns the milliseconds that it took."""
    program, payload = rng.choice(HONEST)
    verdict = await _judge(pool, program, payload)
    tally.outcomes[verdict.outcome.value] += 1
    tally.honest_failed += verdict.outcome is not Outcome.PASS
    return 1000 * verdict.seconds


async def _judge(pool: VerifierPool, program: str, payload: dict[str, object]) -> Verdict:
    return await pool.verify("code", program, json.dumps(payload).encode())


def _state(pool: VerifierPool) -> dict[str, float]:
    """Mounts of this process's namespace; descriptors and memory of the judge processes and their zygotes."""
    # A mount that a box leaked into the machine's tree would appear in this namespace.
    held = footprint(pool.pids)
    with open("/proc/self/mounts") as mounts:
        return {
            "descriptors": held.descriptors,
            "mounts": len(mounts.readlines()),
            "megabytes": held.unshared_bytes / 2**20,
        }


def _box_processes() -> list[int]:
    """Processes that still run as a user of boxes."""
    return [
        process.pid
        for process in psutil.process_iter(["uids"])
        if process.info["uids"] and UID_BASES.start <= process.info["uids"].real < UID_BASES.stop
    ]


def _scratch_files() -> set[str]:
    """The files in ``/tmp``; as root only those of boxes' users, since other programs use the directory too."""
    if os.geteuid():
        return set(os.listdir("/tmp"))
    owners = {}
    for entry in os.scandir("/tmp"):
        with contextlib.suppress(FileNotFoundError):
            owners[entry.name] = entry.stat(follow_symlinks=False).st_uid
    return {name for name, owner in owners.items() if UID_BASES.start <= owner < UID_BASES.stop}


def _p99(milliseconds: Sequence[float]) -> float:
    ordered = sorted(milliseconds)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
