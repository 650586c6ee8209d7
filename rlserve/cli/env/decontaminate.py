"""``rlserve env decontaminate``: finds tasks of a training file that overlap with an evaluation file."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from rlserve.cli.env.overlap import all_ngrams, contaminated
from rlserve.errors import InvalidRequest
from rlserve.text_files import lines_of, read_text

FIELDS = ("prompt", "question", "problem", "text")
SHOWN = 10
"""Suspects listed; with ``--out``, all of them are left out of the file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", type=Path, help="JSON lines to train on")
    parser.add_argument("evaluation", type=Path, help="JSON lines of the evaluation")
    parser.add_argument("--field", help=f"column to compare (default: the first of {', '.join(FIELDS)} present)")
    parser.add_argument("-n", type=int, default=13, help="words in an n-gram")
    parser.add_argument("--threshold", type=float, default=0.5, help="share of a task's n-grams that makes it suspect")
    parser.add_argument("--out", type=Path, help="write the tasks that are not suspect here")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 if no task is suspect or ``--out`` left them out, else 1."""
    if arguments.n < 1 or not 0 < arguments.threshold <= 1:
        raise InvalidRequest("n, threshold: give n of at least 1, and a threshold above 0 and at most 1")
    # Both files whole: a share of n-grams needs all those of the evaluation first.
    tasks = list(_texts(arguments.tasks, arguments.field))
    measured = [text for _, text in _texts(arguments.evaluation, arguments.field)]
    known = all_ngrams(measured, arguments.n)
    found = contaminated(tasks, known, n=arguments.n, threshold=arguments.threshold)
    exact = sum(item.share == 1.0 for item in found)
    print(
        f"{len(tasks)} tasks against {len(measured)} of the evaluation, {arguments.n}-word n-grams: "
        f"{len(found)} share {arguments.threshold:.0%} or more, {exact} of them all"
    )
    for item in found[:SHOWN]:
        print(f"  line {item.line}: {item.share:.0%}  {item.text[:90]!a}")
    if arguments.out:
        _write(arguments.tasks, arguments.out, {item.line for item in found})
        print(f"wrote the other {len(tasks) - len(found)} tasks to {arguments.out}")
        return 0
    # A script can stop on it, as with grep or diff.
    return int(bool(found))


def _texts(path: Path, field: str | None) -> Iterator[tuple[int, str]]:
    """Line number and text of each row. Raises InvalidRequest, which names file and line."""
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            name = field or next(name for name in FIELDS if name in row)
            value = row[name]
        except (ValueError, KeyError, TypeError, StopIteration):
            wanted = field or " or ".join(FIELDS)
            raise InvalidRequest(f"{path.name}: line {number} has no {wanted}; name the column with --field") from None
        yield number, value if isinstance(value, str) else json.dumps(value)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        return lines_of(read_text(path))
    except InvalidRequest as error:
        raise InvalidRequest(f"{error}; give a file of JSON lines") from None


def _write(source: Path, target: Path, left_out: set[int]) -> None:
    kept = [line for number, line in _lines(source) if number not in left_out]
    # Source and target may be the same file: it is read above, and replaced by rename.
    partial = target.with_name(target.name + ".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    partial.replace(target)
