"""One life of a run: the launcher, its progress in the terminal, and what is left on disk however it ends."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from typing import TextIO

from rlserve.cli.follow import follow
from rlserve.cli.progress import Progress
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError
from rlserve.launch.local import LocalLauncher
from rlserve.observability.events import EventLog, read_json_lines
from rlserve.observability.outcome import merge_lives, outcome_lines, seconds_of_lives
from rlserve.observability.summary import read_json, write_json

STOPPED = 130
REPORT_POLL_SECONDS = 5.0
FINISHED, ENDED, FAILED = "finished", "stopped", "failed"


class LiveRun:
    """Runs a configuration whose directory is claimed and written."""

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        *,
        resume: bool,
        digest: str,
        out: TextIO | None = None,
        keeps: bool = True,
    ) -> None:
        """Progress goes to ``out`` (standard output); without ``keeps`` the directory is temporary: nothing in it
        is spoken of, and there is no report."""
        self._config = config
        self._paths = paths
        self._resume = resume
        self._keeps = keeps
        self._out = out or sys.stdout
        self._events = EventLog(paths.events)
        self._launcher = LocalLauncher(config, paths, resume=resume, digest=digest)
        self._times_asked = 0
        self._earlier = read_json(paths.summary) if resume else {}

    async def run(self) -> int:
        """Run to the end, a failure (raised as RlserveError) or a signal; returns the exit code."""
        started = time.monotonic()
        self._events.write("run_started", resume=self._resume)
        self._events.write("phase", name="start")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        how = FAILED
        try:
            await self._live()
            how = ENDED if self._times_asked else FINISHED
        except RlserveError as error:
            self._events.note("run_failed", message=str(error))
            raise
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # from here on a signal ends us at once
                loop.remove_signal_handler(number)
            self._events.note("run_ended", how=how)
            self._leave_results(how)
        if how == ENDED:
            if self._keeps:
                self._say(f"stopped; go on with: rlserve run --resume {self._paths.root}")
            return STOPPED
        self._say_outcome(time.monotonic() - started)
        return 0

    def _stop(self) -> None:
        """The first signal asks to stop, the second does not wait."""
        self._times_asked += 1
        if self._times_asked == 1:
            self._launcher.request_stop()
        else:
            self._launcher.hurry()

    async def _live(self) -> None:
        with Progress(self._config.name, self._out) as progress:
            if self._keeps:
                progress.say(f"run directory {self._paths.root}; logs in {self._paths.logs}")
            if self._resume:
                progress.state.step = _newest_step(self._paths)
            leave_out = () if self._keeps else ("accuracy",)
            beside = [asyncio.create_task(follow(self._paths, progress, leave_out=leave_out))]
            if self._keeps and self._config.launch.report_every_steps:
                beside.append(asyncio.create_task(self._report_now_and_then(progress)))
            try:
                address = await self._launcher.start_hub()
                self._paths.hub_address.write_text(address, encoding="ascii")
                await self._launcher.run()
            finally:
                if self._times_asked:
                    seconds = self._config.launch.stop_seconds
                    progress.say(f"stopping (each actor has {seconds:g} s; once more to kill them at once)")
                await self._launcher.close()
                self._paths.hub_address.unlink(missing_ok=True)
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)

    async def _report_now_and_then(self, progress: Progress) -> None:
        """Write the report in a process beside, at low priority; one at a time."""
        every, written = self._config.launch.report_every_steps, progress.state.step
        while True:
            await asyncio.sleep(REPORT_POLL_SECONDS)
            if progress.state.step < written + every:
                continue
            written = progress.state.step
            process = await asyncio.create_subprocess_exec(
                "nice", sys.executable, "-m", "rlserve.cli.main", "report", str(self._paths.root),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                await process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    def _leave_results(self, how: str) -> None:
        """Complete the summary and write the report; neither may cost a good run its end."""
        if how == FINISHED:
            seconds = seconds_of_lives(read_json_lines(self._paths.events))
            write_json(self._paths.summary, merge_lives(self._earlier, read_json(self._paths.summary), seconds))
        if not self._keeps or self._times_asked > 1:
            return
        from rlserve.observability.report import write_report

        try:
            write_report(self._config, self._paths)
        except Exception as error:
            self._say(
                f"the report could not be written ({type(error).__name__}: {error}); rlserve report makes it anew"
            )

    def _say_outcome(self, seconds: float) -> None:
        if not self._keeps:
            return
        paths = self._paths
        lines = outcome_lines(read_json(paths.summary))
        for line in lines:
            self._say(line)
        model = paths.checkpoints / f"step-{_newest_step(paths)}"
        self._say(f"took    {seconds:.0f} s\nsummary {paths.summary}\nreport  {paths.report}")
        self._say(f"model   {model if model.exists() else paths.start_model}")

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def _newest_step(paths: RunPaths) -> int:
    names = (path.name.removeprefix("step-") for path in paths.checkpoints.glob("step-*"))
    return max((int(name) for name in names if name.isdigit()), default=0)
