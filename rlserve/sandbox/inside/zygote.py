"""The zygote: a warm interpreter that forks one box for each request. It is started by path, in an empty environment.

It never reads a job: descriptors arrive over its socket, and only the forked child reads them, so that no box finds
another one's program or tests in its memory. A box is two processes: the reaper, which is trusted, holds the control
pipe and ends the box; and the runner, which drops every privilege and then runs its job.

``main``  waits for: the next request. unblocked by: the service, or its end (the socket closes; SIGKILL).
``reap``  waits for: the runner's end. unblocked by: the runner, SIGTERM of the service, or a deadline of its own.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import candidate
import kernel
import program
import room
import tester

ROLES: dict[str, Callable[[int, list[int]], int]] = {
    "program": program.main,
    "candidate": candidate.main,
    "tester": tester.main,
}
MAX_HEADER_BYTES = 64 * 1024
"""Any value of this size will do: a header has a role and some limits."""
MAX_LINKS = 8
"""Any value of this size will do: a role has at most three."""
NUM_STREAMS = 5
"""Job, standard input, output and error, control: the descriptors of every box."""
LATE_SECONDS = 10.0
"""How much later than the service the reaper acts by itself. Any value of this size will do."""
KILL_SECONDS = 5.0
"""How long the reaper waits for a killed runner, which takes a millisecond where a processor is free."""
NUM_UIDS = 4096
"""Size of a zygote's block of user ids, as in ``tiers.UID_BASES``: boxes alive at the same time never share one."""
SHARED_UID_SPARE = 8
"""Processes of the user that are not the box's own: the zygote, and the reapers of boxes that run at the same time."""
MAX_DESCRIPTORS = 65536
"""Descriptors up to here are closed. Any value will do that lies above those of a zygote."""
FAULT_EXIT = 70  # EX_SOFTWARE of sysexits.h
WARM = (
    "abc",
    "array",
    "ast",
    "base64",
    "bisect",
    "calendar",
    "cmath",
    "collections.abc",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "hashlib",
    "inspect",
    "io",
    "itertools",
    "json",
    "keyword",
    "math",
    "numbers",
    "operator",
    "pprint",
    "queue",
    "random",
    "re",
    "statistics",
    "string",
    "struct",
    "textwrap",
    "threading",
    "time",
    "traceback",
    "types",
    "typing",
    "unicodedata",
    "unittest",
    "uuid",
    "zlib",
)
"""Modules that small programs import: every box inherits them loaded."""


def main() -> int:
    """Serve until the service closes the socket."""
    kernel.die_with_parent()
    kernel.lift_soft_limits()  # the service's soft limits are meant for the service; boxes get limits of their own
    # After die_with_parent: a parent that ended before the call sends no signal any more.
    if os.getppid() != int(sys.argv[1]):
        return 0
    settings = json.loads(sys.argv[2])
    link = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    try:
        for name in WARM:
            __import__(name)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # when memory runs out, the kernel takes a box first
        if settings["namespaces"]:
            room.enter(settings["readable"], settings["places"])
        find_packages(settings["places"], settings["packages"])
    except OSError as error:
        link.send(json.dumps({"error": str(error)}).encode())
        return 1
    system_calls = bytes.fromhex(settings["seccomp"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the reapers
    # Blocked here and inherited: a SIGTERM that reaches a reaper before it waits stays pending instead of killing it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
    # Frozen objects are never visited by a box's collector, which would copy the pages they share.
    gc.collect()
    gc.freeze()
    link.send(b'{"ready": true}')
    boxes = 0
    while True:
        header, descriptors, _, _ = socket.recv_fds(link, MAX_HEADER_BYTES, NUM_STREAMS + MAX_LINKS)
        if not header:
            return 0
        boxes += 1
        _open_box(link, json.loads(header), descriptors, settings, system_calls, boxes)


def find_packages(places: Mapping[str, str], packages: Sequence[str]) -> None:
    """Point the import system at the places in the new root, and at packages, which come after the library."""

    def moved(path: str) -> str:
        return next((new + path[len(old) :] for old, new in places.items() if f"{path}/".startswith(f"{old}/")), path)

    sys.path[:] = [*map(moved, sys.path), *packages]
    for module in list(sys.modules.values()):
        # A loaded package keeps the path under which it was found: its submodules are imported from there.
        if isinstance(getattr(module, "__path__", None), list):
            module.__path__[:] = map(moved, module.__path__)
    sys.path_importer_cache.clear()


def _open_box(
    link: socket.socket,
    header: Mapping[str, Any],
    descriptors: Sequence[int],
    settings: Mapping[str, Any],
    system_calls: bytes,
    number: int,
) -> None:
    """Fork a box and answer with its pidfd."""
    flags = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS if settings["namespaces"] else 0
    try:
        pid, pidfd = kernel.clone(flags)
    except OSError as error:
        link.send(json.dumps({"error": str(error)}).encode())
        for descriptor in descriptors:
            os.close(descriptor)
        return
    if pid == 0:
        code = 1
        try:
            link.close()  # a box that kept it could ask for boxes
            code = reap(header, descriptors, settings, system_calls, number)
        finally:
            os._exit(code)
    for descriptor in descriptors:
        os.close(descriptor)
    socket.send_fds(link, [json.dumps({"pid": pid}).encode()], [pidfd])
    os.close(pidfd)


def reap(
    header: Mapping[str, Any], descriptors: Sequence[int], settings: Mapping[str, Any], system_calls: bytes, number: int
) -> int:
    """The reaper: start the runner, end it in time, report how it ended."""
    control = descriptors[NUM_STREAMS - 1]
    kernel.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # with the zygote's SIG_IGN the kernel would discard the exit status
    limits = header["limits"]
    try:
        if settings["cgroup"] is not None:
            os.write(settings["cgroup"], b"0")  # the writing process; before the fork, so that the runner is in it too
        if settings["namespaces"]:
            room.furnish(limits["file_bytes"], limits["files"])
        runner = os.fork()
    except OSError as error:
        _report(control, {"error": f"box: {error}"})
        return 1
    if runner == 0:
        os.close(control)  # else the program could forge the report
        _run(header, descriptors, settings, system_calls, number)
    for descriptor in descriptors:
        if descriptor != control:
            os.close(descriptor)
    # The service enforces the limits, since it measures how long a box waited; this deadline is for a service that
    # hangs.
    deadline = time.monotonic() + limits["longest_seconds"] + LATE_SECONDS
    ended, late = False, False
    while True:
        # -1 also reaps orphans of the program, whose parent the reaper became as process 1 of the namespace.
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid == runner:
            break
        if pid == 0:
            left = KILL_SECONDS if ended else max(0.0, deadline - time.monotonic())
            news = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, left)
            if news is None or news.si_signo == signal.SIGTERM:
                if ended:
                    break
                ended, late = True, news is None
                os.kill(runner, signal.SIGKILL)
    cpu = usage.ru_utime + usage.ru_stime
    _report(control, {"status": status, "cpu_seconds": cpu, "peak_bytes": usage.ru_maxrss * 1024, "late": late})
    return 0


def _report(control: int, message: Mapping[str, Any]) -> None:
    os.write(control, json.dumps(message).encode())


def _run(
    header: Mapping[str, Any], descriptors: Sequence[int], settings: Mapping[str, Any], system_calls: bytes, number: int
) -> NoReturn:
    """The runner: give up every privilege, then run the job. Never returns."""
    code = FAULT_EXIT
    try:
        job, links = _arrange(descriptors, header["links"])
        _confine(header["limits"], settings, system_calls, number)
        code = ROLES[header["role"]](job, links)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"box: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(code)  # without the exit handlers and buffers that were inherited from the zygote


def _arrange(descriptors: Sequence[int], num_links: int) -> tuple[int, list[int]]:
    """Arrange the descriptors: standard streams at 0 to 2, then the job, then the links; close all others."""
    job, stdin, stdout, stderr, _, *links = descriptors
    high = [os.dup(descriptor) for descriptor in (stdin, stdout, stderr, job, *links[:num_links])]
    # By way of places above all: dup2 straight to a final place could overwrite a descriptor that is still needed.
    top = max(high) + 1
    parked = []
    for offset, descriptor in enumerate(high):
        os.dup2(descriptor, top + offset)
        parked.append(top + offset)
    for place, descriptor in enumerate(parked):
        os.dup2(descriptor, place, inheritable=True)
    os.closerange(len(parked), MAX_DESCRIPTORS)
    return 3, list(range(4, len(parked)))


def _confine(limits: Mapping[str, Any], settings: Mapping[str, Any], system_calls: bytes, number: int) -> None:
    """Drop every privilege for good. The order matters: each step uses something that a later one takes away."""
    os.setsid()
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # the program gets default signals, not the zygote's mask
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    spare = SHARED_UID_SPARE if settings["shared_uid"] else 0
    for name, value in (
        ("CPU", limits["kernel_seconds"]),
        ("AS", limits["memory_bytes"]),
        ("FSIZE", 0 if settings["single_process"] else limits["file_bytes"]),
        ("NOFILE", limits["open_files"]),
        ("NPROC", limits["processes"] + spare),
        ("CORE", 0),
        ("MEMLOCK", 0),
        ("MSGQUEUE", 0),
    ):
        kind = getattr(resource, f"RLIMIT_{name}")
        # Hard limits too, so that the program cannot raise them; an operator's own hard limit may be lower already.
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    kernel.forgo_privileges()
    if os.geteuid() == 0 and settings["uid_base"]:
        uid = settings["uid_base"] + number % NUM_UIDS
        # Groups before the user: without root's powers neither could be changed any more.
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if settings["single_process"]:
        parent = os.getppid()
        kernel.die_with_parent()
        # A reaper that ended before the call sends no signal any more; init (1) is then the parent.
        if os.getppid() != parent or parent == 1:
            os._exit(FAULT_EXIT)
    kernel.drop_capabilities()
    if settings["landlock"]:
        writable = ["/dev/null"] if settings["single_process"] else [room.SCRATCH, "/dev/null"]
        kernel.confine_files(
            [*settings["readable"], *settings["places"].values(), *(f"/dev/{name}" for name in room.DEVICES)], writable
        )
    kernel.filter_system_calls(system_calls)  # last: it refuses calls that the steps above make


if __name__ == "__main__":
    sys.exit(main())
