"""The math verifier against math-verify: both judge the same pairs, each in a process that can be killed.

The construction of a pair determines its right verdict, so that each disagreement shows which of the two is wrong.
"""

import json
import queue
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlserve.bench.verdicts.answer_sources import Pair, make_pairs
from rlserve.bench.verdicts.judge_process import JudgeProcess

PROGRESS_SECONDS = 10.0  # between lines of progress; any value of this size will do


def compare(*, answers: Sequence[str], pairs: int, out: str, workers: int) -> dict[str, Any]:
    """Let both judge ``pairs`` pairs: counts by source and by kind, and a file of all disagreements in ``out``.

    ``workers`` is the number of processes of each judge that work at a time.
    """
    asked = make_pairs([Path(path) for path in answers], pairs)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    disagreements = folder / "disagreements.jsonl"
    mistakes = folder / "our-mistakes.jsonl"
    by_source: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    with disagreements.open("w", encoding="utf-8") as file, mistakes.open("w", encoding="utf-8") as wrong:
        for pair, ours, theirs in _judged(asked, workers):
            row = json.dumps({**asdict(pair), "ours": ours, "math_verify": theirs}, ensure_ascii=False) + "\n"
            # Only "equal" would earn a reward: unread answers, errors and hangs count as unequal.
            if (ours == "equal") != (theirs == "equal"):
                file.write(row)
            if (ours == "equal") != pair.same:
                wrong.write(row)
            for table, name in ((by_source, pair.source), (by_kind, pair.kind)):
                table.setdefault(name, Counter()).update(_counted(pair, ours, theirs))
    return {
        "pairs": len(asked),
        "all": _shares(sum(by_source.values(), Counter())),
        "by_source": {name: _shares(counts) for name, counts in sorted(by_source.items())},
        "by_kind": {name: _shares(counts) for name, counts in sorted(by_kind.items())},
        "disagreements": str(disagreements),
        "our_mistakes": str(mistakes),
    }


def _judged(asked: Sequence[Pair], workers: int) -> Iterator[tuple[Pair, str, str]]:
    """Every pair with both verdicts, in any order; prints the progress."""
    printed = start = time.monotonic()
    done: queue.SimpleQueue[tuple[Pair, str, str]] = queue.SimpleQueue()
    with ThreadPoolExecutor(workers) as threads:
        lanes = [threads.submit(_lane, asked[lane::workers], done) for lane in range(workers)]
        for index in range(1, len(asked) + 1):
            yield _next(done, lanes)
            if time.monotonic() - printed > PROGRESS_SECONDS or index == len(asked):
                printed = time.monotonic()
                rate = index / (printed - start)
                left = (len(asked) - index) / rate
                print(f"  {index} of {len(asked)} pairs, {rate:.0f} a second, {left:.0f} s left", file=sys.stderr)


def _next(done: "queue.SimpleQueue[tuple[Pair, str, str]]", lanes: Sequence["Future[None]"]) -> tuple[Pair, str, str]:
    """The next judged pair. Raises the exception of a lane that failed."""
    while True:
        try:
            return done.get(timeout=1.0)
        except queue.Empty:
            # A lane that failed puts nothing into the queue: without this look the wait would never end.
            for lane in lanes:
                if lane.done():
                    lane.result()


def _lane(pairs: Sequence[Pair], done: "queue.SimpleQueue[tuple[Pair, str, str]]") -> None:
    """Judge a share of the pairs, with one process of each judge."""
    judges = JudgeProcess("ours"), JudgeProcess("math-verify")
    try:
        for pair in pairs:
            for judge in judges:  # both are asked before either is waited for, so that they work at a time
                judge.ask(pair.gold, pair.answer)
            ours, theirs = (judge.verdict() for judge in judges)
            done.put((pair, ours, theirs))
    finally:
        for judge in judges:
            judge.close()


def _counted(pair: Pair, ours: str, theirs: str) -> Iterator[str]:
    yield "pairs"
    for name, word in (("ours", ours), ("math-verify", theirs)):
        if (word == "equal") == pair.same:
            yield f"{name} right"
        elif word == "equal":
            yield f"{name} passes a wrong answer"
        if word == "hung":
            yield f"{name} hung"
    if (ours == "equal") == (theirs == "equal"):
        yield "agree"


def _shares(counts: Counter[str]) -> str:
    """One line of the table."""
    names = ("agree", "ours right", "math-verify right", "ours passes a wrong answer",
             "math-verify passes a wrong answer", "math-verify hung")  # fmt: skip
    return f"{counts['pairs']} pairs: " + ", ".join(f"{name} {counts[name]}" for name in names)
