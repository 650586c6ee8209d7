"""``rlserve verify KIND CASES.jsonl``: verdicts for a file of cases, by the same pool that runs use.

``cases.py`` and ``rlserve verify --help`` describe the format. Verdicts go to the console as a table, or with ``--out``
to a file of JSON lines. Outcomes are written as ``pass``, ``fail``, ``timeout``, ``error`` (its ``reason`` starts with
memory, output_limit, crash or rejected) and ``no_verdict``.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.cli.cases import FORMATS, Case, read_cases
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.records import Outcome, Verdict

MAX_ID_CHARACTERS = 60
"""Width of the id column, so that the table fits a terminal."""
ERRORS = frozenset({Outcome.MEMORY, Outcome.OUTPUT_LIMIT, Outcome.CRASH, Outcome.REJECTED})

Progress = Callable[[int, int], None]
"""Called with the number of finished cases and of all cases."""


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """The result of a file."""

    outcomes: Mapping[str, int]
    """Cases by outcome."""
    unexpected: tuple[str, ...]
    """Ids of cases whose verdict differs from the expected one."""
    num_expected: int
    """Cases with an expected outcome."""
    first_without: str = ""
    """The first case without a verdict, with the reason."""

    @property
    def num_without_verdict(self) -> int:
        """Cases without a verdict."""
        return self.outcomes.get(Outcome.NO_VERDICT, 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``rlserve verify``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = FORMATS
    parser.add_argument("kind", help="registered verifier, e.g. math")
    parser.add_argument("cases", type=Path, help="JSON lines, one case per line")
    parser.add_argument("--out", type=Path, help="file of verdicts, JSON lines in the order of the cases; else a table")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="judge processes")
    parser.add_argument("--limit-seconds", type=float, default=VerifierConfig().limit_seconds)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=JSON", help="option of the verifier")


def run(arguments: argparse.Namespace) -> int:
    """Verify the file; exit code 0 if every case has a verdict, else 1."""
    config = VerifierConfig(
        workers=arguments.workers,
        limit_seconds=arguments.limit_seconds,
        options={arguments.kind: dict(map(_option, arguments.option))},
    )
    summary = verify_file(arguments.kind, arguments.cases, arguments.out, config=config, progress=_show)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.outcomes.items()))
    print(f"{sum(summary.outcomes.values())} cases: {counts or 'none'}")
    if summary.num_expected:
        agreeing = summary.num_expected - len(summary.unexpected)
        print(f"as expected: {agreeing} of {summary.num_expected}")
        for case_id in summary.unexpected[:50]:
            print(f"  not as expected: {case_id}")
    if summary.first_without:
        print(f"first without a verdict: {summary.first_without}")
    return 1 if summary.num_without_verdict else 0


def verify_file(
    kind: str,
    cases_path: Path,
    out_path: Path | None = None,
    *,
    config: VerifierConfig | None = None,
    progress: Progress | None = None,
) -> VerifySummary:
    """Verify every case of a file; one verdict each, in order, to a file of JSON lines or as a table to stdout.

    Raises InvalidRequest (with the line number) for a malformed file, before any case is verified; UnknownName for a
    verifier that is not registered.
    """
    # All lines first: a malformed one is reported before the first verdict costs time.
    cases = list(read_cases(kind, cases_path))
    verdicts = asyncio.run(_judge(kind, cases, config or VerifierConfig(), progress or (lambda done, total: None)))
    lines = [verdict_line(case, verdict) for case, verdict in zip(cases, verdicts, strict=True)]
    if out_path is None:
        _print_table(lines)
    else:
        # By rename, so that whatever reads the file never sees half of it.
        temporary = out_path.with_name(out_path.name + ".partial")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(out_path)
    return _summary(cases, verdicts)


def verdict_line(case: Case, verdict: Verdict) -> dict[str, Any]:
    """A verdict as one line; with NO_VERDICT the reward is null."""
    return {
        "id": case.case_id,
        "outcome": written_outcome(verdict),
        "reward": verdict.reward if verdict.has_reward else None,
        "passed": verdict.passed,
        "total": verdict.total,
        "reason": f"{verdict.outcome.value}: {verdict.reason}" if verdict.outcome in ERRORS else verdict.reason,
        "seconds": round(verdict.seconds, 6),
    }


def written_outcome(verdict: Verdict) -> str:
    """The outcome as written in a case file."""
    return "error" if verdict.outcome in ERRORS else verdict.outcome.value


async def _judge(kind: str, cases: list[Case], config: VerifierConfig, progress: Progress) -> list[Verdict]:
    from rlserve.actors.verifier.main import checked_names
    from rlserve.actors.verifier.pool import VerifierPool

    verifiers = {name: config.options.get(name, {}) for name in checked_names([kind])}
    async with VerifierPool(verifiers, config) as pool:
        # Two per process keep each one busy, and a verifier that waits for a server takes all that it may at once; more
        # would only fill the pool's queue, which refuses beyond max_queue.
        slots = asyncio.Semaphore(max(2 * config.workers, pool.specs[kind].concurrency))
        done = 0

        async def one(case: Case) -> Verdict:
            nonlocal done
            async with slots:
                verdict = await pool.verify(kind, case.completion, case.payload, case.prompt)
            done += 1
            progress(done, len(cases))
            return verdict

        return list(await asyncio.gather(*map(one, cases)))


def _print_table(lines: Sequence[Mapping[str, Any]]) -> None:
    # ascii(): an id comes from the file and must not move the terminal's cursor.
    ids = [ascii(line["id"])[1:-1][:MAX_ID_CHARACTERS] for line in lines]
    width = max(map(len, [*ids, "id"]))
    print(f"{'id':<{width}}  {'outcome':<10}  {'reward':>6}  reason")
    for case_id, line in zip(ids, lines, strict=True):
        reward = "-" if line["reward"] is None else f"{line['reward']:.3g}"
        print(f"{case_id:<{width}}  {line['outcome']:<10}  {reward:>6}  {' '.join(line['reason'].split())}")


def _summary(cases: list[Case], verdicts: list[Verdict]) -> VerifySummary:
    pairs = list(zip(cases, verdicts, strict=True))
    wrong = [c.case_id for c, v in pairs if c.accepted is not None and written_outcome(v) not in c.accepted]
    return VerifySummary(
        outcomes=Counter(verdict.outcome.value for verdict in verdicts),
        unexpected=tuple(wrong),
        num_expected=sum(case.accepted is not None for case in cases),
        first_without=next((f"{c.case_id}: {v.reason}" for c, v in pairs if v.outcome is Outcome.NO_VERDICT), ""),
    )


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        return key, json.loads(value) if equals else True
    except ValueError:
        return key, value


def _show(done: int, total: int) -> None:
    # A carriage return redraws a line of a terminal; in a log each one would be a line of its own.
    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        print(f"\r{done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
