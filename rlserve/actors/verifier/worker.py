"""A judging process: reads jobs, judges one completion at a time, writes a verdict after each.

Started by the pool as ``python -m rlserve.actors.verifier.worker`` with an empty environment, so that nothing of
the service is in its memory. It limits itself (address space, CPU time), dies with its parent, and can be killed
at any moment: it holds nothing that is not also in the service.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

from rlserve import plugins
from rlserve.actors.verifier.frames import LENGTH, MAX_TRACEBACK_CHARACTERS, Garbage, encode, encode_verdict
from rlserve.actors.verifier.traits import VerifierTraits, encode_traits, traits_of, waits
from rlserve.errors import DeadlineExceeded, InvalidRequest, NotReady, RlserveError, Unavailable
from rlserve.records import FailureKind, Verdict

PR_SET_PDEATHSIG = 1
PAGE_BYTES = resource.getpagesize()
NUM_PROCESSORS = len(os.sched_getaffinity(0))


def main() -> int:
    """Serve until the pipe closes; returns the exit code."""
    die_with_parent(int(sys.argv[1]))
    jobs, replies = take_pipes()
    hello = read(jobs)
    if hello is None:
        return 0
    verifiers, traits = load(hello["verifiers"], prepare=hello["prepare"])
    limits = _Limits(hello["memory_bytes"])
    write(replies, {"traits": [encode_traits(found) for found in traits]})
    unprepared = {name: verifier for name, verifier in verifiers.items() if name not in hello["prepare"]}
    while (job := read(jobs)) is not None:
        name = job["verifier"]
        if name in unprepared:
            verifiers[name] = _prepared(unprepared.pop(name), limits)
            write(replies, {"prepared": name})
        limits.set_memory(job["memory_bytes"])
        _judge_all(verifiers[name], job, replies, limits)
    return 0


def die_with_parent(parent: int) -> None:
    """Be killed when the service dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above: no signal will come
        os._exit(0)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes, moved away from the descriptors to which a plug-in prints."""
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return jobs, replies


def read(jobs: BinaryIO) -> dict[str, Any] | None:
    """The next message of the service; None when it hung up."""
    head = jobs.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    message = json.loads(jobs.read(LENGTH.unpack(head)[0]))
    if not isinstance(message, dict):
        raise Garbage("a job that is no object")
    return message


def write(replies: BinaryIO, message: Mapping[str, Any]) -> None:
    """Send a message to the service."""
    frame = memoryview(encode(message))
    while frame:
        frame = frame[replies.write(frame) :]


def load(
    wanted: Mapping[str, Mapping[str, Any]], *, prepare: Collection[str], waiting: bool = False
) -> tuple[dict[str, plugins.Verifier], list[VerifierTraits]]:
    """Instances and traits of all: a plug-in that breaks takes nobody else along.

    Those that are not named in ``prepare`` are prepared when they get their first job.
    """
    verifiers: dict[str, plugins.Verifier] = {}
    traits: list[VerifierTraits] = []
    for name, options in wanted.items():
        try:
            verifiers[name] = plugins.load(plugins.VERIFIER_GROUP, name)(**options)
            if name in prepare and waits(verifiers[name]) == waiting:  # what waits judges in a process of its own
                _prepare(verifiers[name])
            traits.append(traits_of(name, verifiers[name]))
        except Exception as error:
            verifiers[name] = _Unready(error)
            traits.append(VerifierTraits(name=name, error=f"{type(error).__name__}: {error}"))
    return verifiers, traits


def _prepare(verifier: plugins.Verifier) -> None:
    if hasattr(verifier, "prepare"):
        verifier.prepare()


def _prepared(verifier: plugins.Verifier, limits: "_Limits") -> plugins.Verifier:
    """The verifier when it is ready, or one that says of each completion why it is not."""
    limits.lift()
    try:
        _prepare(verifier)
    except Exception as error:
        return _Unready(error)
    finally:
        limits.begin()
    return verifier


class _Unready:
    """In place of a verifier that could not be prepared."""

    def __init__(self, error: Exception) -> None:
        self.name = self.version = self.description = ""
        self._error = error

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Raises what preparing raised."""
        raise self._error


class _Limits:
    """Address space and CPU time of this process; raised and lowered below the hard limits."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.begin()

    def begin(self) -> None:
        """What is in memory now counts for nothing."""
        with open("/proc/self/statm") as statm:
            self._base = int(statm.read().split()[0]) * PAGE_BYTES
        self._current = 0

    def lift(self) -> None:
        """No limits until the next ones are set."""
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def set_memory(self, memory_bytes: int) -> None:
        """Allow this much beyond the size at start."""
        allowed = self._base + min(memory_bytes, self._memory_bytes)
        if allowed != self._current:
            self._current = allowed
            resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))

    def set_cpu(self, limit_seconds: float) -> None:
        """Die by SIGXCPU well after the limit: for the case that the service is stuck and cannot kill."""
        soft = math.ceil(time.process_time() + 2 * limit_seconds * NUM_PROCESSORS) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _judge_all(verifier: plugins.Verifier, job: Mapping[str, Any], replies: BinaryIO, limits: _Limits) -> None:
    payload = job["payload"].encode("latin-1")
    for index, completion in enumerate(job["completions"]):
        limits.set_cpu(job["limit_seconds"])
        start = time.perf_counter()
        said = judge(verifier, completion, payload, job["prompt"])
        write(replies, {"index": index, "seconds": time.perf_counter() - start, **said})


def judge(verifier: plugins.Verifier, completion: str, payload: bytes, prompt: str) -> dict[str, Any]:
    """The verdict as plain data; what the verifier raises becomes "no verdict", with the place where it did."""
    try:
        return {"verdict": encode_verdict(verifier.verify(completion, payload, prompt))}
    except Exception as error:
        return no_verdict(error, verifier)


def no_verdict(error: Exception, verifier: plugins.Verifier) -> dict[str, Any]:
    """Why there is no verdict. Of what the verifier did not mean to raise, also where, and the traceback."""
    match error:
        case InvalidRequest():
            return _none(FailureKind.INVALID, str(error))
        case MemoryError():
            return _none(FailureKind.RESOURCE, "the verifier needs more memory than it may have")
        case Unavailable() | DeadlineExceeded() | NotReady():
            return _none(FailureKind.UNAVAILABLE, str(error), retriable=True)
        case RlserveError():
            return _none(FailureKind.INTERNAL, f"{type(error).__name__}: {error}")
    story = ""
    with contextlib.suppress(Exception):  # an exception may be unable to say what it is
        story = "".join(traceback.format_exception(error))
    return _none(FailureKind.INTERNAL, _cause(error, verifier)) | {"traceback": story[-MAX_TRACEBACK_CHARACTERS:]}


def _cause(error: Exception, verifier: plugins.Verifier) -> str:
    """The exception, and the last line of the verifier's own code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    home = os.path.dirname(getattr(sys.modules.get(type(verifier).__module__), "__file__", None) or __file__)
    own = [frame for frame in frames if frame.filename.startswith(home + os.sep)] or frames
    where = f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else ""
    try:
        text = str(error)
    except Exception:
        text = "(it cannot say what it is)"
    return f"{type(error).__name__}: {text[:400]}{where}"


def _none(kind: FailureKind, message: str, *, retriable: bool = False) -> dict[str, Any]:
    return {"verdict": {"outcome": "no_verdict", "failure": [kind.value, message[:500], retriable]}}


if __name__ == "__main__":
    sys.exit(main())
