"""A judge process, from inside: reads jobs, verifies one completion at a time, writes a verdict after each.

Started by the pool as ``python -m rlserve.actors.verifier.worker_main`` with an empty environment, so that no secret of
the service is in its memory. It limits its own address space and CPU time, dies with its parent, and may be killed
at any moment because it holds no state that the service lacks.
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
from collections.abc import Collection, Mapping, Sequence
from typing import Any, BinaryIO

from rlserve import plugins
from rlserve.actors.verifier.pipe import LENGTH, MAX_TRACEBACK_CHARACTERS, Garbage, encode, encode_verdict
from rlserve.actors.verifier.spec import VerifierSpec, encode_spec, spec_of, waits
from rlserve.errors import DeadlineExceeded, InvalidRequest, NotReady, PluginFailed, RlserveError, Unavailable
from rlserve.records import FailureKind, Verdict

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PAGE_BYTES = resource.getpagesize()
NUM_PROCESSORS = len(os.sched_getaffinity(0))


def main() -> int:
    """Serve until the pipe closes; returns the exit code."""
    die_with_parent(int(sys.argv[1]))
    # Before any plug-in is imported, since that may print.
    jobs, replies = take_pipes()
    hello = read(jobs)
    if hello is None:
        return 0
    verifiers, specs = load(hello["verifiers"], prepare=hello["prepare"])
    # After the import of the plug-ins, whose size is the base of the memory limit.
    limits = _Limits(hello["memory_bytes"])
    write(replies, {"specs": [encode_spec(found) for found in specs]})
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
    """Let the kernel kill this process when the service dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the call above, so no signal will follow
        os._exit(0)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Move the pipes away from stdin and stdout, so that a plug-in's ``print`` cannot corrupt the messages."""
    # Unbuffered: a verdict must leave before the next completion, which may end this process.
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    # A plug-in that reads stdin finds its end, and takes no job away.
    os.dup2(nothing, 0)
    os.close(nothing)
    # What a plug-in prints goes to stderr, whose last line the service shows.
    os.dup2(2, 1)
    return jobs, replies


def read(jobs: BinaryIO) -> dict[str, Any] | None:
    """The next message of the service; None at the end of the pipe."""
    head = jobs.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    message = json.loads(jobs.read(LENGTH.unpack(head)[0]))
    if not isinstance(message, dict):
        raise Garbage("a job that is not an object")
    return message


def write(replies: BinaryIO, message: Mapping[str, Any]) -> None:
    """Send a message to the service."""
    # An unbuffered write may be partial.
    frame = memoryview(encode(message))
    while frame:
        frame = frame[replies.write(frame) :]


def load(
    wanted: Mapping[str, Mapping[str, Any]], *, prepare: Collection[str], waiting: bool = False
) -> tuple[dict[str, plugins.Verifier], list[VerifierSpec]]:
    """Instances and specs of all verifiers; one that fails to load gets a spec with its error.

    Verifiers not named in ``prepare`` are prepared for their first job.
    """
    verifiers: dict[str, plugins.Verifier] = {}
    specs: list[VerifierSpec] = []
    for name, options in wanted.items():
        try:
            verifiers[name] = plugins.load(plugins.VERIFIER_GROUP, name)(**options)
            if name in prepare and waits(verifiers[name]) == waiting:  # async verifiers run in a process of their own
                _prepare(verifiers[name])
            specs.append(spec_of(name, verifiers[name]))
        # One broken plug-in must not take the others with it.
        except Exception as error:
            verifiers[name] = _Unready(error)
            specs.append(VerifierSpec(name=name, error=f"{type(error).__name__}: {error}"))
    return verifiers, specs


def _prepare(verifier: plugins.Verifier) -> None:
    if hasattr(verifier, "prepare"):
        verifier.prepare()


def _prepared(verifier: plugins.Verifier, limits: "_Limits") -> plugins.Verifier:
    """The prepared verifier, or a stand-in that raises the error for each completion."""
    # Preparing may import large libraries. Their size joins the base of the limit, and their time counts against no
    # completion.
    limits.lift()
    try:
        _prepare(verifier)
    except Exception as error:
        return _Unready(error)
    finally:
        limits.begin()
    return verifier


class _Unready:
    """Stand-in for a verifier that could not be prepared."""

    def __init__(self, error: Exception) -> None:
        self.name = self.version = self.description = ""
        self._error = error

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Raise the error of ``prepare``."""
        raise self._error


class _Limits:
    """Limits of this process's address space and CPU time; soft limits, so they can be raised again."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        # No core files: a verifier that exceeds its memory may crash with most of it in use.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.begin()

    def begin(self) -> None:
        """Take the present size as the base to which ``set_memory`` adds."""
        with open("/proc/self/statm") as statm:
            self._base = int(statm.read().split()[0]) * PAGE_BYTES
        self._current = 0

    def lift(self) -> None:
        """Remove the limits until the next ones are set."""
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def set_memory(self, memory_bytes: int) -> None:
        """Allow this much beyond the base."""
        allowed = self._base + min(memory_bytes, self._memory_bytes)
        if allowed != self._current:
            self._current = allowed
            resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))

    def set_cpu(self, limit_seconds: float) -> None:
        """Die by SIGXCPU well after the limit, in case the service is stuck and does not kill this process.

        The factor 2 leaves the decision to the service as long as it works; RLIMIT_CPU counts all threads, hence
        the number of processors.
        """
        soft = math.ceil(time.process_time() + 2 * limit_seconds * NUM_PROCESSORS) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _judge_all(verifier: plugins.Verifier, job: Mapping[str, Any], replies: BinaryIO, limits: _Limits) -> None:
    payload = job["payload"].encode("latin-1")
    if isinstance(verifier, plugins.GroupVerifier):
        limits.set_cpu(job["limit_seconds"])
        start = time.perf_counter()
        replies_ = judge_group(verifier, job["completions"], payload, job["prompt"])
        # Shared out, so that the seconds of a group's verdicts add up to what it took.
        seconds = (time.perf_counter() - start) / max(len(replies_), 1)
        for index, said in enumerate(replies_):
            write(replies, {"index": index, "seconds": seconds, **said})
        return
    for index, completion in enumerate(job["completions"]):
        # Again for each completion: RLIMIT_CPU counts from the start of the process.
        limits.set_cpu(job["limit_seconds"])
        start = time.perf_counter()
        said = judge(verifier, completion, payload, job["prompt"])
        write(replies, {"index": index, "seconds": time.perf_counter() - start, **said})


def judge(verifier: plugins.Verifier, completion: str, payload: bytes, prompt: str) -> dict[str, Any]:
    """The verdict as plain data; an exception of the verifier becomes NO_VERDICT with the line that raised it."""
    try:
        return {"verdict": encode_verdict(verifier.verify(completion, payload, prompt))}
    # Not SystemExit: that ends the process, which the service counts as a crash.
    except Exception as error:
        return no_verdict(error, verifier)


def judge_group(
    verifier: plugins.GroupVerifier, completions: Sequence[str], payload: bytes, prompt: str
) -> list[dict[str, Any]]:
    """The verdicts of one call as plain data; an exception becomes NO_VERDICT for each completion."""
    try:
        return encode_group(verifier.verify_group(completions, payload, prompt), len(completions))
    except Exception as error:
        return [no_verdict(error, verifier)] * len(completions)


def encode_group(verdicts: Sequence[Verdict], count: int) -> list[dict[str, Any]]:
    """The verdicts as plain data. Raises ValueError if there is not one for each completion."""
    if len(verdicts) != count:
        raise ValueError(f"verify_group returned {len(verdicts)} verdicts for {count} completions; return one for each")
    return [{"verdict": encode_verdict(verdict)} for verdict in verdicts]


def no_verdict(error: Exception, verifier: plugins.Verifier) -> dict[str, Any]:
    """NO_VERDICT for an exception; an unexpected one includes its location and traceback."""
    match error:
        case InvalidRequest():
            return _none(FailureKind.INVALID, str(error))
        case MemoryError():
            return _none(FailureKind.RESOURCE, "the verifier needs more memory than its limit")
        case Unavailable() | DeadlineExceeded() | NotReady():
            return _none(FailureKind.UNAVAILABLE, str(error), retriable=True)
        case PluginFailed():
            # It blames code that the verifier called; its notes have the traceback into that.
            trace = "".join(getattr(error, "__notes__", ()))
            return _none(FailureKind.INTERNAL, str(error)) | {"traceback": trace[-MAX_TRACEBACK_CHARACTERS:]}
        case RlserveError():
            return _none(FailureKind.INTERNAL, f"{type(error).__name__}: {error}")
    story = ""
    with contextlib.suppress(Exception):  # a plug-in's exception may raise in __str__
        story = "".join(traceback.format_exception(error))
    return _none(FailureKind.INTERNAL, _cause(error, verifier)) | {"traceback": story[-MAX_TRACEBACK_CHARACTERS:]}


def _cause(error: Exception, verifier: plugins.Verifier) -> str:
    """The exception and the last line of the verifier's own code in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    home = os.path.dirname(getattr(sys.modules.get(type(verifier).__module__), "__file__", None) or __file__)
    own = [frame for frame in frames if frame.filename.startswith(home + os.sep)] or frames
    where = f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else ""
    try:
        text = str(error)
    except Exception:
        text = "(its __str__ raises)"
    return f"{type(error).__name__}: {text[:400]}{where}"


def _none(kind: FailureKind, message: str, *, retriable: bool = False) -> dict[str, Any]:
    return {"verdict": {"outcome": "no_verdict", "failure": [kind.value, message[:500], retriable]}}


if __name__ == "__main__":
    sys.exit(main())
