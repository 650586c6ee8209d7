"""All checks: files and ports in this process, plug-ins in a probe that is killed when it hangs."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rlserve.actors.process import PARENT_PID
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.last_words import last_words
from rlserve.launch.memory.check import check_memory
from rlserve.launch.preflight.finding import Finding, warning
from rlserve.launch.preflight.machine import check_machine
from rlserve.launch.process import describe_exit

STAGE_SECONDS = 30.0
"""A stage that takes longer is skipped with a warning. A large task file takes seconds to read."""
START_SECONDS = 60.0
"""Limit for the imports of the probe: ten seconds on a busy machine."""
MAX_TRIES = 6
"""Probes before the check gives up: each skips one more stage that hung or crashed."""
START = "start"


def check(config: RunConfig, paths: RunPaths, *, stage_seconds: float = STAGE_SECONDS) -> list[Finding]:
    """All faults and warnings; nothing is started or written."""
    # The machine first: its checks run no plug-in, so that their findings do not depend on the probe.
    memory = () if config.launch.type == "ray" else check_memory(config, paths)  # whose nodes have memory of their own
    return [*check_machine(config, paths), *memory, *probe(config, stage_seconds=stage_seconds)]


def refuse_faults(findings: Sequence[Finding]) -> None:
    """Raises one ConfigError that lists all faults."""
    faults = list(dict.fromkeys(finding.message for finding in findings if finding.is_fault))
    if faults:
        raise ConfigError("\n".join(faults))


def probe(config: RunConfig, *, stage_seconds: float = STAGE_SECONDS) -> Iterator[Finding]:
    """Findings about plug-ins, models and prompts; a stage that hangs or crashes is skipped by the next probe."""
    skip: list[str] = []
    told: set[Finding] = set()
    for _ in range(MAX_TRIES):
        attempt = _Attempt(config, skip, stage_seconds)
        attempt.run()
        yield from (finding for finding in attempt.findings if finding not in told)
        told.update(attempt.findings)
        if attempt.is_done:
            return
        # A probe stops at the stage that hung or crashed; the next one runs every other stage, also those before it,
        # because later stages need the tasks that earlier ones took.
        skip.append(attempt.stage)
        # It ended before its first stage, during its imports: another probe would end the same way.
        if attempt.stage == START:
            return


@dataclass(slots=True)
class _Attempt:
    """One probe process."""

    config: RunConfig
    skip: Sequence[str]
    stage_seconds: float
    findings: list[Finding] = field(default_factory=list)
    stage: str = START
    is_done: bool = False

    def run(self) -> None:
        """Start the probe, read its findings to the end, and kill what is left of it."""
        # A file, not a pipe: nothing reads standard error while the probe runs, and a plug-in that fills a pipe's
        # buffer would block.
        with tempfile.NamedTemporaryFile(prefix="rlserve-preflight-") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rlserve.launch.preflight.probe"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # The probe leads a process group, so that killpg below also reaches what plug-ins have started.
                start_new_session=True,
                # tokenizers warns in the log, and turns its threads off, when a plug-in forks after they have run.
                env={**os.environ, PARENT_PID: str(os.getpid()), "TOKENIZERS_PARALLELISM": "false"},
            )
            try:
                assert process.stdin and process.stdout
                order = {"config": self.config.model_dump(mode="json", exclude_none=True), "skip": list(self.skip)}
                # A probe that died during its imports does not read; its exit status and log then give the reason.
                with suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(order).encode())
                    process.stdin.close()
                ended = self._listen(process.stdout)
                # A probe that was too slow has its finding already, and the kill below is the reason of its exit.
                if ended and not self.is_done:
                    self.findings.append(self._crash(process.wait(), log.name))
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _listen(self, stream: IO[bytes]) -> bool:
        """Read until the end of the stream (True), or until a stage takes too long (False)."""
        # A blocking read would wait for a whole line of a probe that hangs in the middle of one.
        os.set_blocking(stream.fileno(), False)
        buffer = b""
        # The first message comes only after the imports.
        deadline = time.monotonic() + max(self.stage_seconds, START_SECONDS)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not self.is_done:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self.findings.append(self._too_slow())
                    return False
                data = stream.read() or b""
                if not data:
                    return True
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
                deadline = time.monotonic() + self.stage_seconds
        return True

    def _take(self, message: dict[str, Any]) -> None:
        if "stage" in message:
            self.stage = str(message["stage"])
        elif "finding" in message:
            self.findings.append(Finding.from_json(message["finding"]))
        else:
            self.is_done = True

    def _too_slow(self) -> Finding:
        return warning(f"{self.stage}: its check took longer than {self.stage_seconds:g} s and was not finished")

    def _crash(self, status: int, log: str) -> Finding:
        said = last_words(Path(log)) or "its log is empty"
        return Finding(f"{self.stage}: its process ended ({describe_exit(status)}) during the check: {said}")
