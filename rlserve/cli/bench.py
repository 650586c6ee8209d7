"""``rlserve bench``: benchmarks as ratios, both sides measured in one run on this machine."""

import argparse
import contextlib
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from rlserve.errors import InvalidRequest

BENCHES = {
    "rollout": "tokens per second of the rollout engine against plain vLLM on the same prompts",
    "sync": "pause of generation during a weight update, against vLLM's own calls",
    "learner": "seconds of an optimizer step against a plain PyTorch loop on the same batch",
    "verifier": "programs and answers verified per second: warm sandbox, cold start, bare process",
    "soak": "thousands of hostile and honest programs in a row: leaks, slow-down, wrong verdicts",
    "ingest": "small groups per second that one learner accepts, from 1, 10, 100 and 300 workers",
    "transport": "publishing and fetching a version: shared memory, delta, full",
}
LONG = {
    "learn": "every method, same start and sample budget: accuracy and cost (8 minutes per seed)",
    "staleness": "accuracy and effective sample size by lag, with and without importance ratios (10 minutes per seed)",
    "pipeline": "pipeline GRPO against synchronous and colocated pools, long-tailed lengths (2 minutes per seed)",
    "load": "the quick start beside two busy processes, relative to its time alone (5 minutes per seed)",
    "journey": "from a script with a reward function to its first step, against TRL's (a minute per seed)",
    "peer": "pipeline GRPO against TRL's GRPOTrainer: wall-clock seconds to accuracy 0.9 (a minute per seed)",
    "real_model": "SmolLM2-135M learns sums asked in chat, by each method (15 minutes per method and seed)",
    "gpu": "learner, engine, swaps and a whole run on one GPU, with random weights; without a GPU it rehearses",
}
"""Whole training runs; not part of ``all``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {what}" for name, what in {**BENCHES, **LONG}.items())
    parser.add_argument("what", choices=(*BENCHES, *LONG, "all"), help=listed)
    parser.add_argument("--seeds", type=int, default=3, help=f"for {', '.join(LONG)}: repetitions (default 3)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for gpu: time for all its stages (default 8)")
    parser.add_argument("--out", help="for the same: directory of the runs; default: runs/bench-NAME")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="for the same: names of the lines to run; default: all. For verifier: rates (default), differential",
    )
    parser.add_argument(
        "--answers",
        nargs="+",
        default=[],
        metavar="FILE",
        help="for verifier's differential part: GSM8K's JSON lines, files of cases; reasoning-gym's answers always",
    )
    parser.add_argument("--workers", type=int, default=2, help="for the same: processes per side (default 2)")
    parser.add_argument("--pairs", type=int, default=20_000, help="for the same: pairs of answers (default 20000)")
    parser.add_argument("--model", default="", help="for real_model: the folder of the model, instead of its Hub name")
    parser.add_argument(
        "--store", choices=("sqlite", "redis"), default="sqlite", help="for ingest: where groups are kept"
    )
    parser.add_argument(
        "--url", default="redis://127.0.0.1:6379/0", help="for the same: the Redis server (default %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="for the same: read existing runs, repeat none")
    parser.add_argument("--json", action="store_true", help="print only the numbers, as JSON")


def run(arguments: argparse.Namespace) -> int:
    chosen = list(BENCHES) if arguments.what == "all" else [arguments.what]
    results: dict[str, Any] = {}
    for name in chosen:
        if not arguments.json:
            print(f"{name}: {({**BENCHES, **LONG})[name]}", file=sys.stderr, flush=True)
        # Libraries log to standard output, which is reserved for the numbers.
        with contextlib.redirect_stdout(sys.stderr):
            # Imported one by one: most benches load vLLM or torch, and `--help` should not.
            results[name] = importlib.import_module(f"rlserve.bench.{name}").measure(**_options(name, arguments))
        if not arguments.json:
            print_numbers(results[name])
    if arguments.json:
        print(json.dumps(results))
    return 0


def _options(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if name == "verifier":
        return _verifier_options(arguments)
    if name == "ingest":
        from rlserve.config.tables.store import StoreConfig

        options = {"url": arguments.url} if arguments.store == "redis" else {}
        try:
            return {"store": StoreConfig(type=arguments.store, options=options)}
        except ValueError:  # not repeated: it shows what it refuses
            raise InvalidRequest("--url: has a password; give it in RLSERVE_REDIS_PASSWORD") from None
    if name not in LONG:
        return {}
    if name == "gpu":
        if arguments.minutes <= 0:
            raise InvalidRequest(f"--minutes: is {arguments.minutes:g}; give more than 0")
        return {"minutes": arguments.minutes, "only": arguments.only, "out": arguments.out or "runs/bench-gpu"}
    if arguments.seeds < 1:
        raise InvalidRequest(f"--seeds: is {arguments.seeds}; give at least 1")
    out = arguments.out or f"runs/bench-{name}"
    options = {"seeds": arguments.seeds, "only": arguments.only, "keep": arguments.keep, "out": out}
    return {**options, "model": arguments.model} if name == "real_model" else options


def _verifier_options(arguments: argparse.Namespace) -> dict[str, Any]:
    unknown = set(arguments.only) - {"rates", "differential"}
    # Under `all` the names in --only may be those of another bench.
    if unknown and arguments.what != "all":
        raise InvalidRequest(f"--only: {sorted(unknown)} is not a part of verifier; use rates or differential")
    for option in ("pairs", "workers"):
        if getattr(arguments, option) < 1:
            raise InvalidRequest(f"--{option}: is {getattr(arguments, option)}; give at least 1")
    out = arguments.out or "runs/bench-verifier"
    options = {name: getattr(arguments, name) for name in ("only", "answers", "pairs", "workers")}
    return {**options, "out": out}


def print_numbers(numbers: Mapping[str, Any], indent: str = "  ") -> None:
    """A flat or nested result, one number per line."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}")
            print_numbers(value, indent + "  ")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(f"{indent}{name:42} {text}")
