"""``rlserve pairs``: preference pairs, or examples, from files of graded samples."""

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.text_files import json_object, lines_of, read_text

Sample = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Graded on-policy pairs: `rlserve pairs graded.jsonl --out pairs.jsonl` pairs a right sample of a prompt "
        "with a wrong one. Strong against weak: `rlserve pairs strong.jsonl --weak weak.jsonl --out pairs.jsonl` "
        "pairs a sample of the strong model with one of the weak model for the same prompt. `--examples` keeps "
        "single completions instead, for supervised batches and offline distillation."
    )
    parser.add_argument("samples", type=Path, help="file of `rlserve generate`")
    parser.add_argument("--out", type=Path, required=True, help="JSON-lines file to write")
    parser.add_argument("--weak", type=Path, help="samples of a weaker model on the same prompts: the rejected ones")
    parser.add_argument("--examples", action="store_true", help="prompts and completions instead of pairs")
    parser.add_argument("--right-only", action="store_true", help="with --examples: only right samples")
    parser.add_argument("--margin", type=float, default=0.0, help="least difference of rewards (default: above 0)")
    parser.add_argument("--pairs-per-prompt", type=int, default=1, help="at most this many (default 1)")
    parser.add_argument("--seed", type=int, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRules:
    """Which samples make a pair."""

    margin: float = 0.0
    per_prompt: int = 1
    seed: int = 0


def run(arguments: argparse.Namespace) -> int:
    # Before the samples are read: a large file takes seconds.
    if arguments.out.exists():
        raise InvalidRequest(f"--out: {str(arguments.out)!r} exists already; give a new name")
    if arguments.pairs_per_prompt < 1:
        raise InvalidRequest(f"--pairs-per-prompt: is {arguments.pairs_per_prompt}; give at least 1")
    samples = read_samples(arguments.samples)
    rules = PairRules(margin=arguments.margin, per_prompt=arguments.pairs_per_prompt, seed=arguments.seed)
    if arguments.examples:
        rows = list(examples(samples, right_only=arguments.right_only))
    elif arguments.weak:
        # A list, not a stream: an empty result is refused before the output file exists.
        rows = list(strong_against_weak(samples, read_samples(arguments.weak), rules))
    else:
        rows = list(graded_pairs(samples, rules))
    if not rows:
        raise InvalidRequest(
            f"samples: {len(samples)} samples make no pair; graded pairs need a right and a wrong sample of one prompt "
            "(give `rlserve generate` more --samples), pairs of two models the same prompts in both files"
        )
    with open(arguments.out, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows)} {'examples' if arguments.examples else 'pairs'} from {len(samples)} samples: {arguments.out}")
    return 0


def read_samples(path: Path) -> list[Sample]:
    """Lines of a file of samples. Raises InvalidRequest, which names the line."""
    try:
        text = read_text(path)
    except InvalidRequest as error:
        raise InvalidRequest(f"samples: {error}") from None
    return [_sample(path, number, line) for number, line in lines_of(text)]


def graded_pairs(samples: Iterable[Sample], rules: PairRules) -> Iterator[Sample]:
    """Per prompt, better samples against worse ones; ties make no pair, and truncated samples are never chosen."""
    for prompt, group in _by_prompt(samples).items():
        graded = [s for s in group if s.get("reward") is not None]
        found = [
            (a, b)
            for a in graded
            for b in graded
            if a["reward"] - b["reward"] > rules.margin and not a.get("truncated") and _differ(a, b)
        ]
        yield from _drawn(prompt, found, rules)


def strong_against_weak(strong: Iterable[Sample], weak: Iterable[Sample], rules: PairRules) -> Iterator[Sample]:
    """Per prompt that both answered, samples of the strong model against samples of the weak one.

    If both are graded, pairs whose strong sample has the lower reward are left out.
    """
    others = _by_prompt(weak)
    for prompt, group in _by_prompt(strong).items():
        found = [
            (a, b)
            for a in group
            for b in others.get(prompt, [])
            if _differ(a, b)
            and not a.get("truncated")
            and (a.get("reward") is None or b.get("reward") is None or a["reward"] >= b["reward"] + rules.margin)
        ]
        yield from _drawn(prompt, found, rules)


def examples(samples: Iterable[Sample], *, right_only: bool) -> Iterator[Sample]:
    """Prompt and completion of each sample that was not truncated."""
    for sample in samples:
        if sample["completion"] and not sample.get("truncated") and (sample.get("right") or not right_only):
            yield {"prompt": sample["prompt"], "completion": sample["completion"]}


def _drawn(prompt: str, found: Sequence[tuple[Sample, Sample]], rules: PairRules) -> Iterator[Sample]:
    # A generator for each prompt: more samples of one prompt do not change the pairs of the others.
    chosen = random.Random(f"{rules.seed}/{prompt}").sample(found, min(rules.per_prompt, len(found)))
    for a, b in chosen:
        yield {"prompt": prompt, "chosen": a["completion"], "rejected": b["completion"]}


def _differ(a: Sample, b: Sample) -> bool:
    # A pair of equal texts has no gradient, and an empty completion no token to train on.
    return bool(a["completion"] and b["completion"] and a["completion"] != b["completion"])


def _by_prompt(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample["prompt"], []).append(sample)
    return groups


def _sample(path: Path, number: int, line: str) -> Sample:
    try:
        value = json_object(line)
    except InvalidRequest as error:
        raise InvalidRequest(f"samples: {str(path)!r}, line {number}: {error}") from None
    texts = ("prompt", "completion")
    if not all(isinstance(value.get(name), str) for name in texts):
        raise InvalidRequest(f"samples: {str(path)!r}, line {number}: needs prompt and completion as text")
    reward = value.get("reward")
    if reward is not None and not isinstance(reward, int | float):
        raise InvalidRequest(f"samples: {str(path)!r}, line {number}: reward is {reward!r}; give a number or null")
    return value
