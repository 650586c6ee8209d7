"""A run started in a script, a notebook's event loop or a thread: signals stop it in order, and mean what they did."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, signal, time
from rlserve.launch.interrupts import lived, stopping


class Life:
    def __init__(self):
        self.asked = 0

    async def run(self):
        self.end, self.loop = asyncio.Event(), asyncio.get_running_loop()
        with stopping(self.stop):
            print("runs", flush=True)
            await self.end.wait()
        if {fails}:
            raise RuntimeError("so it ends")
        return 130

    def stop(self):
        self.asked += 1
        if self.asked == 2:
            self.end.set()


life = Life()


async def cell():
    return lived(life)


def before(number, frame):
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, before)
if "{where}" == "script":
    code = lived(life)
elif "{where}" == "notebook":
    code = asyncio.run(cell())
else:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = threads.submit(lived, life)
        for _ in range(2):
            time.sleep(0.4)
            life.loop.call_soon_threadsafe(life.stop)
    code = found.result()
print(code, life.asked, signal.getsignal(signal.SIGTERM) is before, flush=True)
"""


def ended(tmp_path: Path, where: str, number: int, *, fails: bool = False) -> tuple[int, str, str]:
    """Exit code and output of a run at ``where`` that gets the signal twice."""
    (tmp_path / "program.py").write_text(PROGRAM.format(where=where, fails=fails))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "runs\n"
    for _ in range(0 if where == "thread" else 2):
        time.sleep(0.4)  # two signals at once are one
        process.send_signal(number)
    said, errors = process.communicate(timeout=30)
    return process.returncode, said.strip(), errors


@pytest.mark.parametrize("where", ["script", "notebook", "thread"])
def test_an_interrupt_asks_the_run_to_stop_wherever_it_was_started(tmp_path: Path, where: str) -> None:
    code, said, errors = ended(tmp_path, where, signal.SIGINT)
    assert (code, said) == (0, "130 2 True"), errors


def test_a_handler_of_the_caller_is_back_after_the_run(tmp_path: Path) -> None:
    assert ended(tmp_path, "script", signal.SIGTERM)[:2] == (0, "130 2 True")


def test_an_error_of_the_run_reaches_a_notebook(tmp_path: Path) -> None:
    code, _, errors = ended(tmp_path, "notebook", signal.SIGINT, fails=True)
    assert code == 1 and errors.rstrip().endswith("RuntimeError: so it ends")
