"""The sandbox's own trouble: never a judgement, never a leak."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlserve.errors import NotReady
from rlserve.records import Outcome
from rlserve.sandbox.judgement import SandboxFault
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import Sandbox
from rlserve.sandbox.stdio import StdioTest

SLOW = [StdioTest("", "ok")]
SLEEP = "import time; time.sleep(0.5); print('ok')"
LIMITS = Limits(cpu_seconds=1, wall_seconds=5)


def wait_until(true_of, seconds: float = 5.0) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true_of():
            return True
        time.sleep(0.01)
    return False


def test_a_killed_zygote_costs_a_retry_and_no_judgement() -> None:
    with Sandbox() as sandbox:
        first = sandbox._zygote.pid
        threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
        found = sandbox.stdio(SLEEP, SLOW, LIMITS)
        assert found.outcome is Outcome.PASS
        assert sandbox._zygote.pid != first


def test_a_zygote_that_always_dies_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox() as sandbox:
        start = sandbox._start

        def start_and_kill(tier):  # type: ignore[no-untyped-def]
            zygote = start(tier)
            os.kill(zygote.pid, signal.SIGKILL)
            return zygote

        monkeypatch.setattr(sandbox, "_start", start_and_kill)
        os.kill(sandbox._zygote.pid, signal.SIGKILL)
        with pytest.raises(SandboxFault, match="no judgement in 3 tries"):
            sandbox.stdio(SLEEP, SLOW, LIMITS)


def test_a_killed_service_leaves_no_process_behind(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom rlserve.sandbox.sandbox import Sandbox\nfrom rlserve.sandbox.limits import Limits\n"
        "from rlserve.sandbox.stdio import StdioTest\n"
        "s = Sandbox()\nprint(s._zygote.pid, flush=True)\n"
        "s.stdio('import time; time.sleep(60)', [StdioTest('', '')], Limits(wall_seconds=60))\n"
    )
    service = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert service.stdout is not None
    zygote = int(service.stdout.readline())
    assert wait_until(lambda: _children(zygote))
    box = _children(zygote)[0]
    program = wait_until(lambda: _children(box)) and _children(box)[0]
    service.kill()
    service.wait()
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in (zygote, box, program)))


def test_worn_zygotes_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlserve.sandbox.sandbox.RECYCLE_BOXES", 2)
    with Sandbox() as sandbox:
        pids = set()
        for _ in range(5):
            assert sandbox.stdio("print('ok')", SLOW, LIMITS).outcome is Outcome.PASS
            pids.add(sandbox._zygote.pid)
    assert len(pids) == 3
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_no_descriptor_process_or_file_leaks_over_programs_of_every_kind() -> None:
    programs = [
        "print('ok')",
        "1 / 0",
        "import os\nfor _ in range(5): os.fork()\nprint('ok')",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(60)\nprint('ok')",
        "x = bytearray(1 << 34)",
        "open('/tmp/x', 'w').write('1'); print('ok')",
    ]
    with Sandbox() as sandbox:
        for program in programs:
            sandbox.stdio(program, SLOW, LIMITS)
        before, files = len(os.listdir("/proc/self/fd")), set(os.listdir("/tmp"))
        for _ in range(5):
            for program in programs:
                sandbox.stdio(program, SLOW, LIMITS)
            sandbox.function("def f(): return 1", "assert f() == 1", LIMITS)
        assert len(os.listdir("/proc/self/fd")) == before
        assert sandbox._zygote.num_processes() == 0
        assert {name for name in set(os.listdir("/tmp")) - files if name in ("x", "left")} == set()


def test_a_cgroup_that_cannot_be_used_is_refused_by_name() -> None:
    with pytest.raises(NotReady, match=r"sandbox\.cgroup: '/nowhere' cannot be used"):
        Sandbox(cgroup="/nowhere")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_boxes_enter_the_cgroup_that_the_operator_named() -> None:
    mount = next((line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line), "")
    group = Path(mount, f"rlserve-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no writable cgroup v2 here")
    try:
        with Sandbox(cgroup=str(group)) as sandbox:
            seen: list[str] = []
            watcher = threading.Timer(0.25, lambda: seen.extend((group / "cgroup.procs").read_text().split()))
            watcher.start()
            assert sandbox.stdio(SLEEP, SLOW, LIMITS).outcome is Outcome.PASS
            watcher.join()
            assert len(seen) == 2  # reaper and runner
            assert str(sandbox._zygote.pid) not in seen
        assert wait_until(lambda: not (group / "cgroup.procs").read_text())
    finally:
        group.rmdir()
