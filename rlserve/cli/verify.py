"""``rlserve verify KIND CASES.jsonl --out VERDICTS.jsonl``: judge a file of cases, with the pool that runs use.

A math case has ``id``, ``gold`` and ``answer`` (an answer, or a text that holds one). A code case has ``id``,
``kind`` (``function`` or ``stdio``), ``prompt_entry_point``, ``completion`` (the program) and ``tests`` (Python source
of asserts, or a list of ``{input, output}``). Any other registered
verifier takes cases of ``id``, ``completion``, ``payload`` (JSON) and, if it wants one, ``prompt``. A case may
say what is ``expected`` (true or false, or an outcome, with others that it ``accept``s); the summary then counts who
agrees. Outcomes are written as ``pass``, ``fail``, ``timeout``, ``error`` (``reason`` starts with which: memory,
output_limit, crash or rejected) and ``no_verdict``.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.config.actors import VerifierConfig
from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict

ERRORS = frozenset({Outcome.MEMORY, Outcome.OUTPUT_LIMIT, Outcome.CRASH, Outcome.REJECTED})

Progress = Callable[[int, int], None]
"""Called with the number of cases judged and of all cases."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the file."""

    case_id: str
    completion: str
    payload: bytes
    prompt: str
    accepted: frozenset[str] | None
    """Outcomes, as written, that the case expects; None when it expects nothing."""


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """What came of a file."""

    outcomes: Mapping[str, int]
    """Cases by outcome."""
    unexpected: tuple[str, ...]
    """Ids of cases whose verdict is not what they expect."""
    num_expected: int
    """Cases that expect something."""

    @property
    def num_without_verdict(self) -> int:
        """Cases that the verifier could not judge."""
        return self.outcomes.get(Outcome.NO_VERDICT, 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``rlserve verify``."""
    parser.add_argument("kind", help="registered verifier, e.g. math")
    parser.add_argument("cases", type=Path, help="JSON lines, one case a line")
    parser.add_argument("--out", type=Path, required=True, help="verdicts, JSON lines in the order of the cases")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="judging processes")
    parser.add_argument("--limit-seconds", type=float, default=VerifierConfig().limit_seconds)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=JSON", help="option of the verifier")


def run(arguments: argparse.Namespace) -> int:
    """Judge the file; 0 when every case has a verdict, else 1."""
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
    return 1 if summary.num_without_verdict else 0


def verify_file(
    kind: str,
    cases_path: Path,
    out_path: Path,
    *,
    config: VerifierConfig | None = None,
    progress: Progress | None = None,
) -> VerifySummary:
    """Judge every case of a file and write one verdict line for each, in order.

    Raises InvalidRequest (with the line number) for a file that holds no cases of this kind, before anything is
    judged; UnknownName for a verifier that is not registered.
    """
    cases = list(read_cases(kind, cases_path))
    verdicts = asyncio.run(_judge(kind, cases, config or VerifierConfig(), progress or (lambda done, total: None)))
    temporary = out_path.with_name(out_path.name + ".partial")
    with temporary.open("w") as lines:
        for case, verdict in zip(cases, verdicts, strict=True):
            lines.write(json.dumps(verdict_line(case, verdict)) + "\n")
    temporary.replace(out_path)
    return _summary(cases, verdicts)


def read_cases(kind: str, path: Path) -> Iterator[Case]:
    """The cases of a file; raises InvalidRequest with the line number."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cases: {str(path)!r} cannot be read ({error}); give a file of JSON lines") from error
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _case(kind, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(f"cases: line {number} is no {kind} case ({type(error).__name__}: {error})") from error


def verdict_line(case: Case, verdict: Verdict) -> dict[str, Any]:
    """A verdict as one line; without a verdict the reward is null."""
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
    """The outcome in the words of a case file."""
    return "error" if verdict.outcome in ERRORS else verdict.outcome.value


def _case(kind: str, row: Mapping[str, Any]) -> Case:
    if kind == "math":
        completion, payload = row["answer"], {"answer": row["gold"], "bare": True}
    elif kind == "code" and "payload" not in row:
        completion = row["completion"]
        payload = {"kind": row["kind"], "entry_point": row.get("prompt_entry_point") or "", "tests": row["tests"]}
        payload |= {"extract": False}
    else:
        completion, payload = row["completion"], row["payload"]
    if not isinstance(completion, str):
        raise TypeError("the text to judge is no string")
    return Case(
        case_id=str(row["id"]),
        completion=completion,
        payload=json.dumps(payload).encode(),
        prompt=str(row.get("prompt", "")),
        accepted=_accepted(row),
    )


def _accepted(row: Mapping[str, Any]) -> frozenset[str] | None:
    expected = row.get("expected")
    if isinstance(expected, bool):
        return frozenset(["pass"] if expected else ["fail", "timeout", "error"])
    if not isinstance(expected, str):
        return None
    return frozenset([expected, *row.get("accept", [])])


async def _judge(kind: str, cases: list[Case], config: VerifierConfig, progress: Progress) -> list[Verdict]:
    from rlserve.actors.verifier.main import checked_names, pool_limits
    from rlserve.actors.verifier.pool import WorkerPool

    verifiers = {name: config.options.get(name, {}) for name in checked_names([kind])}
    async with WorkerPool(verifiers, pool_limits(config)) as pool:
        slots = asyncio.Semaphore(2 * config.workers)
        done = 0

        async def one(case: Case) -> Verdict:
            nonlocal done
            async with slots:
                verdict = await pool.judge(kind, case.completion, case.payload, case.prompt)
            done += 1
            progress(done, len(cases))
            return verdict

        return list(await asyncio.gather(*map(one, cases)))


def _summary(cases: list[Case], verdicts: list[Verdict]) -> VerifySummary:
    pairs = list(zip(cases, verdicts, strict=True))
    wrong = [c.case_id for c, v in pairs if c.accepted is not None and written_outcome(v) not in c.accepted]
    return VerifySummary(
        outcomes=Counter(verdict.outcome.value for verdict in verdicts),
        unexpected=tuple(wrong),
        num_expected=sum(case.accepted is not None for case in cases),
    )


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        return key, json.loads(value) if equals else True
    except ValueError:
        return key, value


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done % 50 == 0 or done == total):
        print(f"\r{done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
