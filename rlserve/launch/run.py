"""A whole run from Python: claim its directory, look for faults, launch its processes, leave its results.

``rlserve run``, ``eval`` and ``generate`` are this function with a terminal around it. For example::

    config = load_run(["configs/quickstart.toml"], ["name=mine"])
    status = run(config, RunPaths(Path(config.directory) / config.name))
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from rlserve.actors.mirror.uploads import claim, copy_records, mirror_of
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, RlserveError
from rlserve.launch.base import Launcher
from rlserve.launch.directory import (
    Inputs,
    claimed,
    clear,
    is_finished,
    keep_live,
    relabel_samples,
    write_config,
    written,
)
from rlserve.launch.gpus import gpus_to_plan
from rlserve.launch.interrupts import lived, stopping
from rlserve.launch.plan import plan_processes
from rlserve.launch.preflight.check import check, refuse_faults
from rlserve.launch.registry import launcher_type
from rlserve.observability.events import EventLog, read_json_lines
from rlserve.observability.outcome import merge_lives, outcome_lines, seconds_of_lives
from rlserve.observability.summary import read_json, write_json
from rlserve.store.binding import check_is_new
from rlserve.store.registry import backend_of

STOPPED = 130
"""Exit code after a stop by signal: 128 + SIGINT, as a shell has it."""
REPORT_POLL_SECONDS = 5.0
"""Between two looks whether a report is due; a report takes longer than that to read."""
TAIL_BYTES = 2**16
"""More than one line of metrics ever takes."""
FINISHED, ENDED, FAILED = "finished", "stopped", "failed"


class Display(Protocol):
    """Shows a run to the user who started it."""

    def following(self, paths: RunPaths, *, step: int) -> AbstractAsyncContextManager[object]:
        """Show what the run writes to its directory until the block ends; ``step`` is where it begins."""
        ...

    def say(self, text: str) -> None:
        """Lines about the run as a whole."""
        ...

    def warn(self, text: str) -> None:
        """A warning from before the start."""
        ...


class Silent:
    """Shows nothing: the run's directory has it all."""

    def following(self, paths: RunPaths, *, step: int) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


def run(
    config: RunConfig,
    paths: RunPaths,
    *,
    resume: bool = False,
    overwrite: bool = False,
    restore_store: bool = False,
    preflight: bool = True,
    keeps: bool = True,
    display: Display | None = None,
    reread: Callable[[], RunConfig] | None = None,
    inputs: Inputs = MappingProxyType({}),
) -> int:
    """Run to the end, a failure or a signal; returns the exit code: 0, or 130 after a stop.

    ``resume`` continues from the newest checkpoint of ``paths``; ``overwrite`` deletes an earlier run there first;
    ``restore_store`` puts the checkpoint's copy of the store back before a resume; without ``preflight`` models,
    plug-ins and ports are not checked. Without ``keeps`` the directory is temporary: no report is written, and no path
    in it is shown. ``reread`` returns the configuration again once the directory is claimed, for another launcher may
    have changed it until then. ``inputs`` are files that the configuration names, below ``paths.inputs``.

    In the main thread it handles SIGINT and SIGTERM; in a notebook an interrupt stops the run, too. Raises
    RlserveError: InvalidRequest and ConfigError before anything starts, RunFailed with the last words of the process
    that ended the run.
    """
    display = display or Silent()
    # The lock comes first, and whatever may refuse comes before the first change: a refused start loses nothing.
    with claimed(paths, resume=resume, overwrite=overwrite):
        # Between the caller's reading and the lock another launcher may have resumed this run with other keys.
        config = reread() if reread is not None else config
        if resume and is_finished(config, paths):
            display.say(_finished_text(config, paths))
            return 0
        with written(paths, inputs):
            if preflight:
                look_for_faults(config, paths, display.warn)
            backend = backend_of(config.store)
            # After preflight: an earlier run is deleted only for one that can start.
            if overwrite:
                backend.remove(paths)  # before clear(), which deletes what shows that the store is this run's
                clear(paths, keep=inputs)
            elif not resume:
                check_is_new(backend, paths)
        if restore_store:
            from rlserve.actors.learner.store_copy import restore_store as put_back

            step, replaced = put_back(backend, paths)
            display.say(f"the store is the copy of step {step}; what was there is {replaced}")
        if resume:
            relabel_samples(paths)
        if not resume:
            claim(config, overwrite=overwrite)
        # After clear(), which would delete it; before any actor starts, for actors read it and compare the digest.
        digest = write_config(config, paths)
        paths.live.unlink(missing_ok=True)  # the caller's configuration has it
        launcher = launcher_type(config.launch.type)(config, paths, digest=digest)
        return lived(OneLife(config, paths, launcher, display, resume=resume, keeps=keeps))


def look_for_faults(config: RunConfig, paths: RunPaths, warn: Callable[[str], object]) -> None:
    """Check models, plug-ins, ports and the machine; ``warn`` gets the messages that do not keep a run from starting.

    Raises one ConfigError that lists every fault.
    """
    findings = check(config, paths)
    for finding in findings:
        if not finding.is_fault:
            warn(finding.message)
    refuse_faults(findings)


class OneLife:
    """A run from its start, or from its resumption, to its end; its directory is claimed and written."""

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        launcher: Launcher,
        display: Display,
        *,
        resume: bool,
        keeps: bool = True,
    ) -> None:
        self._config = config
        self._paths = paths
        self._launcher = launcher
        self._display = display
        self._resume = resume
        self._keeps = keeps
        self._events = EventLog(paths.events)
        self._times_asked = 0
        self._earlier = read_json(paths.summary) if resume else {}

    async def run(self) -> int:
        """Run to the end, a failure (raised as RlserveError) or a signal; returns the exit code."""
        started = time.monotonic()
        self._events.write("run_started", resume=self._resume)
        self._events.write("phase", name="start")
        how = FAILED
        try:
            with stopping(self.stop):
                await self._live()
            how = ENDED if self._times_asked else FINISHED
        except RlserveError as error:
            # note(), not write(): on a full disk the error that ended the run must reach the user, not one from logging
            # it.
            self._events.note("run_failed", message=str(error))
            raise
        finally:
            self._keep_settings()
            self._events.note("run_ended", how=how)
            self._leave_results(how)
        if how == ENDED:
            if self._keeps:
                self._display.say(f"stopped; continue with: rlserve run --resume {self._paths.root}")
            return STOPPED
        self._say_outcome(time.monotonic() - started)
        return 0

    def stop(self) -> None:
        """The first call asks to stop, the second does not wait. Call it in the event loop of ``run``."""
        self._times_asked += 1
        if self._times_asked == 1:
            self._launcher.request_stop()
        else:
            self._launcher.hurry()

    async def _live(self) -> None:
        async with self._display.following(self._paths, step=_newest_step(self._paths) if self._resume else 0):
            if self._keeps:
                self._display.say(f"run directory {self._paths.root}; logs in {self._paths.logs}")
            # A report needs seconds of processor time: it is made beside the run, and never waited for.
            reporting = asyncio.create_task(self._report_now_and_then())
            try:
                await self._launch()
            finally:
                if self._times_asked:
                    seconds = self._config.launch.stop_seconds
                    self._display.say(
                        f"stopping: each actor has {seconds:g} s; press Ctrl-C again to kill them at once"
                    )
                # Before the hub's address goes: until every actor has ended, `rlserve status` should find the hub.
                await self._launcher.close()
                self._paths.hub_address.unlink(missing_ok=True)
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)

    async def _launch(self) -> None:
        address = await self._launcher.start_hub()
        # Before the actors start: from here on `rlserve status` and `rollout` can ask, also about a start that hangs.
        self._paths.hub_address.write_text(address, encoding="ascii")
        specs = plan_processes(
            self._config,
            # Whole: a process may be started in another directory than this one.
            self._paths.root.resolve(),
            hub_address=address,
            resume=self._resume,
            gpus=gpus_to_plan(self._config),
        )
        await self._launcher.run(specs)

    async def _report_now_and_then(self) -> None:
        """Write the report in a process beside, at low priority; one at a time."""
        every, written = self._config.launch.report_every_steps, _newest_step(self._paths) if self._resume else 0
        while self._keeps and every:
            await asyncio.sleep(REPORT_POLL_SECONDS)
            step = _last_logged_step(self._paths.metrics)
            if step < written + every:
                continue
            written = step
            # A process of its own: matplotlib would hold the event loop, which must see exits and signals.
            process = await asyncio.create_subprocess_exec(
                "nice", sys.executable, "-m", "rlserve.cli.main", "report", str(self._paths.root),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                await process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    def _keep_settings(self) -> None:
        """What ``rlserve set`` changed becomes part of ``config.toml``, which no actor reads any more."""
        with contextlib.suppress(ConfigError, OSError):
            self._config = keep_live(self._config, self._paths)

    def _leave_results(self, how: str) -> None:
        """Complete the summary and write the report; neither may cost a good run its end."""
        if how == FINISHED:
            seconds = seconds_of_lives(read_json_lines(self._paths.events))
            write_json(self._paths.summary, merge_lives(self._earlier, read_json(self._paths.summary), seconds))
        # Whoever interrupts twice wants the terminal back: no report.
        if not self._keeps or self._times_asked > 1:
            return
        self._write_report()
        self._mirror_records()

    def _write_report(self) -> None:
        from rlserve.observability.report import write_report

        try:
            write_report(self._config, self._paths)
        except Exception as error:
            self._display.say(
                f"the report could not be written ({type(error).__name__}: {error}); rlserve report makes it again"
            )

    def _mirror_records(self) -> None:
        """What the launcher wrote after the learner's end, which copies all else."""
        try:
            if place := mirror_of(self._config):
                copy_records(place, self._paths, {})
        except RlserveError as error:
            self._display.say(f"the mirror lacks the last records: {error}")

    def _say_outcome(self, seconds: float) -> None:
        if not self._keeps:
            return
        paths = self._paths
        for line in outcome_lines(read_json(paths.summary)):
            self._display.say(line)
        model = paths.checkpoints / f"step-{_newest_step(paths)}"
        self._display.say(f"took    {seconds:.0f} s\nsummary {paths.summary}\nreport  {paths.report}")
        self._display.say(f"model   {model if model.exists() else paths.start_model}")


def _newest_step(paths: RunPaths) -> int:
    names = (path.name.removeprefix("step-") for path in paths.checkpoints.glob("step-*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _last_logged_step(metrics: Path) -> int:
    """The step of the last whole line of the metrics; 0 before the first."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError), open(metrics, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        # The piece behind the last line feed is empty, or a line that the learner is writing.
        *_, last, _torn = file.read().split(b"\n")
        return int(json.loads(last)["step"])
    return 0


def _finished_text(config: RunConfig, paths: RunPaths) -> str:
    summary = read_json(paths.summary)
    more = " --unset stop_reward" if config.stop_reward is not None else ""
    first = (
        f"{paths.root} is finished: {summary['steps']} of {config.steps} steps; nothing was changed. To continue: "
        f"rlserve run --resume {paths.root} --set steps=MORE{more}"
    )
    return "\n".join([first, *outcome_lines(summary)])
