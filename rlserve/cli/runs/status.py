"""``rlserve status``: state and live actors of a run, from its hub; of a finished run, its result."""

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.cli.runs.run_directory import run_directory
from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest, NotReady, Unavailable
from rlserve.observability.events import read_json_lines
from rlserve.observability.outcome import outcome_lines
from rlserve.observability.printable import LINES, printable
from rlserve.observability.summary import read_json
from rlserve.records import Actor, EnvironmentSpec, RunState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="directory of the run, e.g. runs/quickstart")
    parser.add_argument("--hub", help="address of the hub, when the run is not on this machine")
    parser.add_argument("--json", action="store_true", help="print only JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.hub:
        _print(asyncio.run(_ask(arguments.hub)), as_json=arguments.json)
        return 0
    if not arguments.run:
        raise InvalidRequest("run: give the directory of a run, e.g. runs/quickstart, or --hub HOST:PORT")
    paths = run_directory(Path(arguments.run))
    if paths.hub_address.exists():
        try:
            _print(asyncio.run(_ask(paths.hub_address.read_text("ascii").strip())), as_json=arguments.json)
            return 0
        except Unavailable:
            pass  # the launcher was killed and left the hub's address behind
    _print_finished(paths, as_json=arguments.json)
    return 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A hub's answer about its run."""

    state: RunState | None
    actors: Sequence[Actor]
    environments: Sequence[EnvironmentSpec]


async def _ask(address: str) -> Answer:
    """Ask the hub. Raises Unavailable or DeadlineExceeded if it does not answer."""
    async with HubClient(address) as client:
        return Answer(await _run_state(client), await client.list_actors(), await client.list_environments())


async def _run_state(client: HubClient) -> RunState | None:
    try:
        return await client.get_run_state()
    # The hub is up before the learner's first report.
    except NotReady:
        return None


def _print(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        # default=str: enums and other values that JSON lacks.
        print(json.dumps({"running": True} | _plain(asdict(answer)), default=str))
        return
    if answer.state is None:
        print("no learner has reported yet")
    else:
        _print_state(answer.state)
    for spec in answer.environments:
        print(printable(f"  environment {spec.name} {spec.version} at {spec.address}, weight {spec.weight:g}"))
    now = time.time()
    for actor in sorted(answer.actors, key=lambda a: a.actor_id):
        seen = now - actor.last_seen_unix_seconds
        status = ", ".join(f"{k} {v}" for k, v in sorted(actor.status.items()))
        line = f"  {actor.actor_id:16} {actor.address:22} pid {actor.pid:<8} seen {seen:4.1f} s ago  {status}"
        print(printable(line))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _print_state(state: RunState) -> None:
    print(printable(f"run {state.run_id}: {state.phase}, step {state.step} of {state.total_steps}. {state.message}"))
    for name, value in sorted(state.metrics.items()):
        print(printable(f"  {name:40} {value:.4g}"))
    print(printable("groups: " + ", ".join(f"{name} {count}" for name, count in sorted(state.groups.items()))))


def _print_finished(paths: RunPaths, *, as_json: bool) -> None:
    """The result of a run that is not running."""
    summary = read_json(paths.summary)
    how, message = _end_of(paths)
    if as_json:
        print(json.dumps({"running": False, "ended": how, "message": message, "summary": summary}))
        return
    print(f"run {paths.root}: {how}" + (f" at step {summary['steps']}" if "steps" in summary else ""))
    for line in (message, *outcome_lines(summary)):
        if line:
            print(printable(line, keep=LINES))
    wall = summary.get("wall_seconds", {})
    if wall:
        print("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in wall.items()))
    if groups := summary.get("groups"):
        dropped = "".join(f", dropped/{reason} {count}" for reason, count in groups.get("dropped", {}).items())
        print("groups: " + ", ".join(f"{k} {v}" for k, v in groups.items() if k != "dropped") + dropped)
    # A killed or stopped run has its queue and its last checkpoint.
    if how != "finished":
        print(f"resume with: rlserve run --resume {paths.root}")


def _end_of(paths: RunPaths) -> tuple[str, str]:
    """How the last life ended ("finished", "stopped", "failed", "killed"), and the message of a failure."""
    # A life without an end event was killed: the launcher writes one in every other case.
    how, message = "killed", ""
    for event in read_json_lines(paths.events):
        match event.get("event"):
            case "run_started":
                how, message = "killed", ""
            case "run_failed":
                message = str(event.get("message", ""))
            case "run_ended":
                how = str(event.get("how"))
    return how, message
