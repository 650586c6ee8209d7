"""One judge process, seen from the service: start it, give it a job, kill it.

``run`` waits for: the next verdict. unblocked by: the process, its death, or the limit of one completion.

Limits exclude the time in which the process waited for a processor (:mod:`rlserve.processor_time`), so that a busy
machine changes how long a verdict takes, never the verdict.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rlserve.actors.verifier.pipe import MAX_REPLY_BYTES, FrameBuffer, Garbage, Reply, decode_reply, encode
from rlserve.actors.verifier.spec import VerifierSpec, decode_spec
from rlserve.errors import ConfigError, DeadlineExceeded, Unavailable
from rlserve.processor_time import READ_EVERY_SECONDS, CountedTime

LAST_WORDS_BYTES = 2000
"""End of stderr kept for the error message, which shows its last line."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessLost(Exception):
    """The process died or was killed for sending garbage; its current completion has no verdict."""


class ProcessStuck(Exception):
    """One completion reached its limit."""

    def __init__(self, time: CountedTime, *, limit: "TimeLimit") -> None:
        super().__init__("the limit was reached")
        self.used_seconds = time.used_seconds
        """CPU time that the process and its children used for this completion."""
        self.wall_seconds = time.wall_seconds
        self.computing = time.used_seconds >= limit.seconds
        """It used the whole limit as CPU time."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """How long to wait for one message of a judge process."""

    seconds: float
    computing: bool = False
    """True: limit CPU time; idle time only by IDLE_FACTOR. False: limit all time except waiting for a processor."""

    IDLE_FACTOR = 4.0
    """Idle time of a computing process, in limits: a sleeping completion still ends, a slow disk does no harm."""
    STARVED_FACTOR, STARVED_SECONDS = 30.0, 60.0
    """Wall-clock bound for a machine that gives the process next to no CPU time; any value far above what an
    overloaded machine causes will do."""

    @property
    def read_every(self) -> float:
        """Seconds between two readings of the clock."""
        return min(READ_EVERY_SECONDS, self.seconds / 4)

    def is_over(self, time: CountedTime) -> bool:
        """Whether the wait ends; also on a machine that gives the process no CPU time at all."""
        if self.computing and time.used_seconds < self.seconds:
            return time.counted_seconds >= self.IDLE_FACTOR * self.seconds or self._is_starved(time)
        return time.counted_seconds >= self.seconds or self._is_starved(time)

    def _is_starved(self, time: CountedTime) -> bool:
        return time.wall_seconds >= self.STARVED_FACTOR * self.seconds + self.STARVED_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Completions of one task for one process."""

    verifier: str
    payload: bytes
    prompt: str
    completions: Sequence[str]
    limit: TimeLimit
    """Limit of one completion."""
    memory_bytes: int

    def message(self) -> Mapping[str, Any]:
        """The job as plain data; bytes are sent as Latin-1 text."""
        return {
            "verifier": self.verifier,
            "payload": self.payload.decode("latin-1"),
            "prompt": self.prompt,
            "completions": list(self.completions),
            "limit_seconds": self.limit.seconds,
            "memory_bytes": self.memory_bytes,
        }


class Pipes(asyncio.SubprocessProtocol):
    """Receives frames, the end of stderr, and the exit of the process."""

    def __init__(self, on_exit: Callable[[], None]) -> None:
        self.frames: deque[dict[str, Any]] = deque()
        self.fault = ""
        self.last_words = bytearray()
        self.changed = asyncio.Event()
        self.exited = asyncio.Event()
        self.closed = False
        self._buffer = FrameBuffer(max_bytes=MAX_REPLY_BYTES)
        self._on_exit = on_exit

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.last_words = (self.last_words + data)[-LAST_WORDS_BYTES:]
            return
        try:
            # After a fault it is unknown where the next frame begins.
            if not self.fault:
                self.frames.extend(self._buffer.feed(data))
        except Garbage as error:
            self.fault = str(error)
        self.changed.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        # Without stdout no verdict can follow, even if the process lives on.
        if fd == 1:
            self.closed = True
            self.changed.set()

    def process_exited(self) -> None:
        self.closed = True
        self.exited.set()
        self.changed.set()
        self._on_exit()


class JudgeProcess:
    """A process that verifies one completion at a time. Made by :meth:`start`.

    Example::

        process = await JudgeProcess.start({"math": {}}, memory_bytes=2**29, prepare=["math"], start_seconds=60,
                                           on_exit=lambda process: ...)
        async for reply in process.run(job):
            ...
        await process.kill()
    """

    MODULE = "rlserve.actors.verifier.worker_main"

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: Pipes) -> None:
        self._transport = transport
        self._pipes = pipes
        self.pid = transport.get_pid()
        self.specs: Mapping[str, VerifierSpec] = {}
        self.completions = 0
        """Completions verified so far."""
        self.start_bytes = 0
        """Resident size when the process was ready."""
        self._unprepared: set[str] = set()
        self._start_limit = TimeLimit(0.0)

    @classmethod
    async def start(
        cls,
        verifiers: Mapping[str, Mapping[str, Any]],
        *,
        memory_bytes: int,
        prepare: Collection[str],
        start_seconds: float,
        environment: Collection[str] = (),
        on_exit: Callable[[Self], None],
    ) -> Self:
        """Start a process and wait until its verifiers are loaded; kills it if that fails.

        Verifiers in ``prepare`` are prepared now, each other one for its first job, within ``start_seconds``.
        ``environment`` are names of variables that it gets.
        Raises Unavailable (with the last line of its stderr) or DeadlineExceeded.
        """
        worker: Self | None = None
        # A process that exits before ``worker`` is assigned never belonged to the caller: start raises instead.
        pipes = Pipes(lambda: on_exit(worker) if worker is not None else None)
        # -P keeps the working directory, whose files could shadow modules, off sys.path. The session of its own has a
        # process group, by which ``kill`` also ends the programs that a verifier started.
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: pipes,
            sys.executable, "-P", "-m", cls.MODULE, str(os.getpid()),
            env=judge_environment(environment),
            start_new_session=True,
        )  # fmt: skip
        worker = cls(transport, pipes)
        try:
            hello = {"verifiers": verifiers, "memory_bytes": memory_bytes, "prepare": sorted(prepare)}
            await worker._greet(hello, start_seconds)
            worker._unprepared = set(worker.specs) - set(prepare)
        # Also when cancelled: no caller owns the process yet.
        except BaseException:
            await worker.kill()
            raise
        return worker

    @property
    def alive(self) -> bool:
        """False once the process exited or sent an invalid frame."""
        return not self._pipes.closed and not self._pipes.fault

    def resident_bytes(self) -> int:
        """Resident size now; 0 if the process is dead."""
        try:
            with open(f"/proc/{self.pid}/statm") as statm:
                return int(statm.read().split()[1]) * PAGE_BYTES
        except OSError:
            return 0

    async def run(self, job: Job) -> AsyncIterator[Reply]:
        """Verdicts of the job's completions, in order, each within its limit.

        Raises ProcessLost or ProcessStuck at the completion that caused it; the caller must then kill the process.
        """
        self._send(job.message())
        if job.verifier in self._unprepared:
            await self._preparing(job.verifier)
        for index in range(len(job.completions)):
            message = await self._next(job.limit)
            try:
                reply = decode_reply(message, verifier=job.verifier)
            except Garbage as error:
                raise ProcessLost(str(error)) from error
            if reply.index != index:
                raise ProcessLost("a verdict out of order")
            self.completions += 1
            yield reply

    async def _preparing(self, verifier: str) -> None:
        try:
            message = await self._next(self._start_limit)
        except ProcessStuck:
            raise ProcessLost(f"{verifier!r} was not prepared within {self._start_limit.seconds:g} s") from None
        if message.get("prepared") != verifier:
            raise ProcessLost("a verdict before it was prepared")
        self._unprepared.discard(verifier)
        # What it imported to prepare is no growth by completions, for which a process is replaced.
        self.start_bytes = self.resident_bytes()

    async def kill(self) -> None:
        """Kill the process and its process group, and wait until it is reaped."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if not self._pipes.exited.is_set():  # until the loop reaps it, the kernel gives its pid to no other process
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        try:
            async with asyncio.timeout(10):  # SIGKILL takes milliseconds; more only in an uninterruptible disk wait
                await self._pipes.exited.wait()
        finally:
            self._transport.close()

    async def _greet(self, hello: Mapping[str, Any], start_seconds: float) -> None:
        self._start_limit = TimeLimit(start_seconds)
        self._send(hello)
        try:
            message = await self._next(self._start_limit)
        except ProcessStuck:
            raise DeadlineExceeded(f"judge process {self.pid}: not ready within {start_seconds:g} s") from None
        except ProcessLost as error:
            raise Unavailable(f"judge process {self.pid}: died while starting: {error}") from error
        self.specs = {spec.name: spec for spec in map(decode_spec, message["specs"])}
        self.start_bytes = self.resident_bytes()

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = self._transport.get_pipe_transport(0)
        assert isinstance(pipe, asyncio.WriteTransport)
        pipe.write(encode(message))

    async def _next(self, limit: TimeLimit) -> dict[str, Any]:
        pipes, time = self._pipes, None
        while not pipes.frames and not pipes.closed and not pipes.fault:
            pipes.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit.read_every):
                    await pipes.changed.wait()
                continue
            # Most verdicts arrive before the first reading, so /proc is read only for slow ones.
            time = time or CountedTime(self.pid, read_every=limit.read_every)
            time.read()
            # Let a busy loop read pending pipe data first: the verdict may have been written before the limit.
            await asyncio.sleep(0)
            if limit.is_over(time) and not pipes.frames and not pipes.closed and not pipes.fault:
                raise ProcessStuck(time, limit=limit)
        if pipes.frames:
            return pipes.frames.popleft()
        raise ProcessLost(pipes.fault or self._obituary())

    def _obituary(self) -> str:
        code = self._transport.get_returncode()
        how = "is gone" if code is None else f"exited with {code}" if code >= 0 else f"was killed by signal {-code}"
        words = bytes(self._pipes.last_words).decode("utf-8", "replace").strip().splitlines()
        return f"process {self.pid} {how}" + (f": {words[-1][:200]}" if words else "")


def judge_environment(names: Collection[str]) -> dict[str, str]:
    """The only environment variables of a judge process: module paths, settings for reproducible verdicts, ``names``.

    Other secrets of the service are not passed on. Raises ConfigError for a name that is not set here.
    """
    if lacking := [name for name in names if name not in os.environ]:
        raise ConfigError(
            f"verifier.environment: {lacking[0]!r} is not set here; export it before the start, or leave it out"
        )
    return {
        "PATH": os.defpath,  # not the service's
        # An empty entry would stand for the working directory.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": "0",  # sets of strings have one order in all processes
        "LC_ALL": "C.UTF-8",  # text files open as UTF-8 whatever the locale of the host
        "OMP_NUM_THREADS": "1",  # the pool fills the processors by processes
        **{name: os.environ[name] for name in names},
    }
