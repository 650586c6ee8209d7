"""``rlserve bench``: ratios measured in one run on this machine."""

import argparse
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

BENCHES = {
    "rollout": "tokens a second of the rollout engine against plain vLLM on the same prompts",
    "sync": "how long generation stands still for a weight update, against vLLM's own calls",
    "learner": "seconds of an optimizer step against a plain PyTorch loop on the same batch",
    "verifier": "programs and answers judged a second: warm sandbox, cold start, bare process",
    "soak": "thousands of hostile and honest programs in a row: leaks, slow-down, wrong verdicts",
    "transport": "publishing and fetching a version: shared, as a delta, whole",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {what}" for name, what in BENCHES.items())
    parser.add_argument("what", choices=(*BENCHES, "all"), help=listed)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON alone")


def run(arguments: argparse.Namespace) -> int:
    chosen = list(BENCHES) if arguments.what == "all" else [arguments.what]
    results: dict[str, Any] = {}
    for name in chosen:
        if not arguments.json:
            print(f"{name}: {BENCHES[name]}", file=sys.stderr, flush=True)
        results[name] = importlib.import_module(f"rlserve.bench.{name}").measure()
        if not arguments.json:
            print_numbers(results[name])
    if arguments.json:
        print(json.dumps(results))
    return 0


def print_numbers(numbers: Mapping[str, Any], indent: str = "  ") -> None:
    """A flat or nested result, one number a line."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}")
            print_numbers(value, indent + "  ")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(f"{indent}{name:42} {text}")
