"""``rlserve run CONFIG``: a whole run on this machine, start checkpoint to report."""

import argparse
import asyncio
import contextlib
import fcntl
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlserve.cli.progress import Progress
from rlserve.config.load import load_run, to_toml
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.launch.local import LocalLauncher
from rlserve.launch.plan import plan_hub, plan_processes
from rlserve.observability.events import EventLog, phase_seconds, read_json_lines
from rlserve.observability.summary import read_json, write_json
from rlserve.store.binding import RunFacts, changes, stored_facts

POLL_SECONDS = 0.3
STOPPED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="+",
        help="TOML files, later ones over earlier ones; with --resume the directory of the run",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, e.g. --set learner.lr=1e-5 --set environments.0.weight=2",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration and the processes; start nothing",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint and the stored queue")
    parser.add_argument(
        "--restore-store",
        action="store_true",
        help="with --resume: go on with the copy of the store that the newest whole checkpoint holds",
    )
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier run of the same name first")


def run(arguments: argparse.Namespace) -> int:
    config, paths = _resolve(arguments)
    if arguments.dry_run:
        _print_plan(config, paths)
        return 0
    if arguments.restore_store and not arguments.resume:
        raise InvalidRequest("--restore-store: is given without --resume, which it belongs to; add that")
    if arguments.resume:
        _check_changes(config, paths)
    _make_directory(config, paths, resume=arguments.resume, overwrite=arguments.overwrite)
    with _only_launcher(paths):
        if arguments.restore_store:
            _restore_store(paths)
        return asyncio.run(_run(config, paths, resume=arguments.resume))


def _resolve(arguments: argparse.Namespace) -> tuple[RunConfig, RunPaths]:
    if not arguments.resume:
        config = load_run(arguments.config, arguments.overrides)
        return config, RunPaths(Path(config.directory) / config.name)
    if len(arguments.config) != 1:
        raise InvalidRequest("--resume: give one run directory, e.g. rlserve run --resume runs/quickstart")
    given = Path(arguments.config[0])
    paths = RunPaths(given if given.is_dir() else _directory_of(given))
    if not paths.config.exists():
        raise InvalidRequest(f"--resume: {str(paths.root)!r} holds no run (no {paths.config.name})")
    return load_run([paths.config], arguments.overrides), paths


def _check_changes(config: RunConfig, paths: RunPaths) -> None:
    """Raise InvalidRequest, before anything is written, for a change that the resumed run could not take."""
    before = stored_facts(paths.store)
    if before is not None:
        list(changes(before, RunFacts.of(config)))


def _restore_store(paths: RunPaths) -> None:
    from rlserve.actors.learner.store_copy import restore_store

    step = restore_store(paths)
    print(f"the store is the copy of step {step}; what was there is {paths.store}.replaced")


def _directory_of(config_file: Path) -> Path:
    config = load_run([config_file])
    return Path(config.directory) / config.name


def _print_plan(config: RunConfig, paths: RunPaths) -> None:
    print(to_toml(config))
    print("# processes")
    address = "HUB_ADDRESS"
    for spec in (plan_hub(paths.root, address), *plan_processes(config, paths.root, hub_address=address)):
        print(f"# {spec.name}: {' '.join(spec.command[1:])}")


def _make_directory(config: RunConfig, paths: RunPaths, *, resume: bool, overwrite: bool) -> None:
    if paths.root.exists() and any(paths.root.iterdir()) and not resume:
        if not overwrite:
            raise InvalidRequest(
                f"name: {str(paths.root)!r} exists already; go on with `rlserve run --resume {paths.root}`, "
                "start anew with --overwrite, or choose another name with --set name=NAME"
            )
        if not paths.config.exists():
            raise InvalidRequest(f"--overwrite: {str(paths.root)!r} is no run (no config.toml); not deleted")
        with _only_launcher(paths):
            shutil.rmtree(paths.root)
    paths.root.mkdir(parents=True, exist_ok=True)
    paths.config.write_text(to_toml(config), encoding="utf-8")


@contextmanager
def _only_launcher(paths: RunPaths) -> Iterator[None]:
    """Hold the run's lock, so that two launchers never share a directory."""
    with open(paths.root / "launcher.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"name: {str(paths.root)!r} is being run by another launcher; stop it or choose another name"
            ) from None
        yield


async def _run(config: RunConfig, paths: RunPaths, *, resume: bool) -> int:
    started = time.time()
    events = EventLog(paths.events)
    events.write("run_started", resume=resume)
    events.write("phase", name="start")
    launcher = LocalLauncher(config, paths, resume=resume)
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        launcher.request_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    with Progress(config.name, sys.stdout) as progress:
        progress.say(f"run directory {paths.root}; logs in {paths.logs}")
        following = asyncio.create_task(_follow(paths, progress))
        try:
            paths.hub_address.write_text(await launcher.start_hub(), encoding="ascii")
            await launcher.run()
        except RlserveError as error:
            events.write("run_failed", message=str(error))
            raise
        finally:
            progress.state.message = "stopping" if stopped.is_set() else ""
            await launcher.close()
            paths.hub_address.unlink(missing_ok=True)
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        progress.refresh()
    if stopped.is_set():
        print(f"stopped; go on with: rlserve run --resume {paths.root}")
        return STOPPED
    _finish(config, paths, started)
    return 0


def _finish(config: RunConfig, paths: RunPaths, started: float) -> None:
    """Complete the summary with wall seconds, write the report, say what came out."""
    from rlserve.observability.report import write_report

    end = time.time()
    events = [e for e in read_json_lines(paths.events) if float(e["unix_seconds"]) >= started - 1]
    phases = phase_seconds(iter(events), end)
    summary = read_json(paths.summary)
    summary["wall_seconds"] = {
        "total": round(end - started, 2),
        **{name: round(seconds, 2) for name, seconds in phases.items()},
    }
    write_json(paths.summary, summary)
    write_report(config, paths)
    before, after = summary.get("accuracy_before"), summary.get("accuracy_after")
    if before is not None and after is not None:
        print(f"held-out accuracy {before:.3f} -> {after:.3f} in {end - started:.0f} s")
    print(f"summary {paths.summary}\nreport  {paths.report}\nmodel   {paths.checkpoints}")


async def _follow(paths: RunPaths, progress: Progress) -> None:
    """Keep the progress panel on the newest metrics and events."""
    seen_events, seen_metrics = _Tail(paths.events), _Tail(paths.metrics)
    while True:
        for event in seen_events.new():
            _show_event(progress, event)
        for line in seen_metrics.new():
            progress.state.step = int(str(line["step"]))
            progress.state.metrics.update(
                {k: float(v) for k, v in line.items() if isinstance(v, int | float) and "/" in k}
            )
            progress.refresh()
        progress.refresh()
        await asyncio.sleep(POLL_SECONDS)


def _show_event(progress: Progress, event: dict[str, object]) -> None:
    state = progress.state
    match event.get("event"):
        case "phase":
            state.phase, state.message = str(event["name"]), ""
            if state.phase == "training":
                state.train_started = time.monotonic()
                state.total_steps = int(str(event.get("total_steps", 0)))
        case "prepare":
            numbers = {k: v for k, v in event.items() if k not in ("event", "unix_seconds", "stage")}
            state.message = "  ".join(f"{k} {_short(v)}" for k, v in numbers.items())
        case "actor_died":
            progress.say(f"{event['actor']}: {event['how']}; the run goes on while it restarts")
        case "actor_recovered":
            progress.say(f"{event['actor']}: serves again after {float(str(event['seconds'])):.1f} s")
        case "accuracy":
            progress.say(f"held-out accuracy {event['when']}: {event['text']}")
        case "warning":
            progress.say(f"warning: {event['message']}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Tail:
    """New whole lines of a growing JSON-lines file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[dict[str, object]]:
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            # A resumed learner cuts off the metrics of steps that it makes again.
            self._offset = min(self._offset, self._path.stat().st_size)
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)
