"""The start-up proof: a tier is used only after it stopped a set of attacks on this machine.

Programs that try to escape, to spy, to outlive their limits and to exhaust the machine run like any other program, with
traps set up outside; a sprung trap names the hole. Honest programs must pass too: walls that stop everything are
useless.
"""

import contextlib
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlserve.records import Outcome
from rlserve.sandbox.function import judge_function
from rlserve.sandbox.judgement import SandboxFault
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.stdio import StdioTest, judge_stdio
from rlserve.sandbox.zygote import Zygote

VERSION = "1"
"""Version of the set of probes, part of every verdict's isolation. Raise it when the set changes."""

PROBE_LIMITS = Limits(cpu_seconds=2, wall_seconds=5, memory_bytes=256 * 2**20, file_bytes=2**20, processes=8)
"""Small, so that exhausting a limit takes milliseconds. What the probes try (600 MiB, 16 MiB of file, 64 forks) lies
far above."""
SHORT_LIMITS = Limits(cpu_seconds=1, wall_seconds=0.4)
LATE_SECONDS = 60.0
"""Much longer than a busy machine takes to end a program after 0.4 s, and much shorter than the program's 600 s
sleep."""

# Each attempt prints its name if it succeeds. Of all exceptions only those of a refusal are caught: another one is a
# probe that did not work, ends the program and is reported as such.
PROGRAM = """
import ctypes, gc, json, mmap, os, signal, socket, sys
facts = json.loads(input())
libc = ctypes.CDLL(None, use_errno=True)
def reads(path):
    return bool(open(path, "rb").read(1) or True)
def writes(path):
    return bool(open(path, "w").write("x"))
def connects(family, address):
    with socket.socket(family) as s:
        s.settimeout(0.3)
        s.connect(address)
    return True
def sees_environment():
    text = repr(dict(os.environ))
    for pid in [p for p in os.listdir("/proc") if p.isdigit()] if os.path.isdir("/proc") else []:
        try:
            text += open(f"/proc/{pid}/environ").read()
        except OSError:
            pass
    return facts["secret"] in text
def sees_heap():
    wanted = facts["heap"][::-1]
    texts = (o for c in gc.get_objects() for o in gc.get_referents(c) if type(o) is str)
    return any(o is not wanted and wanted in o for o in texts)
def signals():
    os.kill(facts["service"], 0)
    return True
def forks():
    count = 0
    for _ in range(64):
        if os.fork() == 0:
            signal.pause()
        count += 1
    return count > 32
def holds_list():
    return len(bytearray(600 << 20)) > 0
def holds_memfd():
    f = os.memfd_create("x")
    os.ftruncate(f, 600 << 20)
    return True
def holds_shm():
    return libc.shmget(0, 600 << 20, 0o1600) >= 0
def fills(path):
    with open(path, "wb") as f:
        for _ in range(64):
            f.write(bytes(1 << 18))
    return True
def traces():
    return libc.ptrace(16, os.getppid(), 0, 0) == 0
def unshares():
    return libc.unshare(0x10000000) == 0
def executes():
    return os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", ""]) == 0
attempts = {
    "reads a file outside": lambda: reads(facts["readable"]),
    "writes a file outside": lambda: writes(facts["writable"]),
    "connects to a local port": lambda: connects(socket.AF_INET, ("127.0.0.1", facts["port"])),
    "connects to an abstract socket": lambda: connects(socket.AF_UNIX, "\\0" + facts["abstract"]),
    "sees the service's environment": sees_environment,
    "sees the service's memory": sees_heap,
    "signals the service": signals,
    "opens the service's memory": lambda: reads(f"/proc/{facts['service']}/mem"),
    "allocates past the limit": holds_list,
    "holds memory in a memfd": holds_memfd,
    "holds shared memory": holds_shm,
    "fills /dev/shm": lambda: fills("/dev/shm/x"),
    "fills the disk": lambda: fills("/tmp/fill"),
    "traces its parent": traces,
    "makes a user namespace": unshares,
    "executes a program": executes,
    "forks without end": forks,
}
for name, attempt in attempts.items():
    try:
        if attempt():
            print(name)
    except (OSError, MemoryError, ValueError, AttributeError):
        pass
sys.stdout.flush()
"""

# Ignores every signal that can be ignored, so that only SIGKILL ends it.
STUBBORN = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(600)
"""

# Leaves a process behind that belongs to another session and has another parent.
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
print("done")
"""

HONEST = "import collections, json, re, sched, wave\nprint(sum(map(int, input().split())))\n"
HONEST_FUNCTION = "def double(xs):\n    return [2 * x for x in xs]\n"


def holes(zygote: Zygote) -> list[str]:
    """Run the proof: one entry for each hole and each honest program that failed; empty when the walls hold.

    Takes about half a second on an idle machine. Raises SandboxFault when the zygote itself fails.
    """
    found: list[str] = []
    with _traps() as traps:
        found += _attempts(zygote, traps)
    found += _limits(zygote)
    found += _honest(zygote)
    return found


@dataclass(frozen=True, slots=True)
class _Traps:
    """What a program could reach outside of its box."""

    facts: str
    """JSON for the program: where the traps are."""
    written: Path
    """A file that only a program that escaped could write."""
    environment: str
    """A text in this process's memory, kept alive here while the probes look for it."""


@contextlib.contextmanager
def _traps() -> Iterator[_Traps]:
    with tempfile.TemporaryDirectory(prefix="rlserve-proof-") as directory, contextlib.ExitStack() as stack:
        # Anyone may read, write and connect: whatever stops the program is the box, not a permission bit.
        Path(directory).chmod(0o755)
        readable, writable = Path(directory, "readable"), Path(directory, "writable")
        readable.write_text("secret")
        writable.write_text("")
        readable.chmod(0o644)
        writable.chmod(0o666)
        abstract = f"rlserve-proof-{secrets.token_hex(8)}"
        port = _listening(stack, socket.AF_INET, ("127.0.0.1", 0))
        _listening(stack, socket.AF_UNIX, "\0" + abstract)
        heap = "heap-" + secrets.token_hex(12)
        facts = {
            "readable": str(readable),
            "writable": str(writable),
            "port": port[1],
            "abstract": abstract,
            "secret": _a_value_of_our_environment(),
            "heap": heap[::-1],  # reversed, so that the question does not hold what it asks for
            "service": os.getpid(),
        }
        yield _Traps(json.dumps(facts), writable, heap)


def _attempts(zygote: Zygote, traps: _Traps) -> list[str]:
    test = StdioTest(traps.facts + "\n", "")
    try:
        verdict = judge_stdio(zygote, PROGRAM, [test], PROBE_LIMITS)
    except SandboxFault:  # once may be the machine's trouble, as with any program; twice in a row is the sandbox's
        verdict = judge_stdio(zygote, PROGRAM, [test], PROBE_LIMITS)
    found = [line for line in verdict.output.splitlines() if line.strip()]
    if verdict.outcome is not Outcome.PASS and not found:
        found.append(f"the probes did not run ({verdict.outcome.value}: {verdict.reason})")
    if traps.written.read_text():
        found.append("wrote a file outside")
    return found


def _limits(zygote: Zygote) -> list[str]:
    found = []
    start = time.monotonic()
    if judge_stdio(zygote, STUBBORN, [StdioTest("", "")], SHORT_LIMITS).outcome is not Outcome.TIMEOUT:
        found.append("outlasts the wall limit")
    if time.monotonic() - start > LATE_SECONDS:
        found.append("is ended late")
    with contextlib.suppress(SandboxFault):  # a box that did not end: the count of processes finds it too
        judge_stdio(zygote, DAEMON, [StdioTest("", "done")], PROBE_LIMITS)
    if zygote.num_processes():
        found.append("leaves a process behind")
    return found


def _honest(zygote: Zygote) -> list[str]:
    found = []
    if judge_stdio(zygote, HONEST, [StdioTest("20 22\n", "42")], PROBE_LIMITS).outcome is not Outcome.PASS:
        found.append("an honest program does not pass")
    tests = "assert double([1, 2]) == [2, 4]"
    if judge_function(zygote, HONEST_FUNCTION, tests, PROBE_LIMITS).outcome is not Outcome.PASS:
        found.append("an honest function does not pass")
    if judge_function(zygote, HONEST_FUNCTION, "assert double([1]) == [1]", PROBE_LIMITS).outcome is not Outcome.FAIL:
        found.append("a wrong function does not fail")
    return found


def _listening(stack: contextlib.ExitStack, family: socket.AddressFamily, address: object) -> tuple[str, int]:
    listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    listener.bind(address)  # type: ignore[arg-type]
    listener.listen()
    name = listener.getsockname()
    return name if isinstance(name, tuple) else ("", 0)


def _a_value_of_our_environment() -> str:
    """The longest value of this process's environment: a box in which it appears can see the environment."""
    values = [value for value in os.environ.values() if len(value) > 8]
    return max(values, key=len, default="rlserve has no environment here")
