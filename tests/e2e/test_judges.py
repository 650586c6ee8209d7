"""A whole run with a judge behind HTTP that thinks for two seconds, with everything else at its default."""

import http.server
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

THINKING_SECONDS = 2.0
KEY = "a-key-for-the-judge-alone"
STEPS, GROUPS, SAMPLES = 2, 4, 4


class Judge(http.server.ThreadingHTTPServer):
    """Scores by the text's checksum, so that groups differ; remembers how many it thought about at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Thinking)
        self.lock, self.here, self.most, self.asked = threading.Lock(), 0, 0, 0
        self.keys: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Thinking(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        judge = self.server
        assert isinstance(judge, Judge)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        judge.keys.add(str(self.headers["Authorization"]))
        with judge.lock:
            judge.here, judge.asked = judge.here + 1, judge.asked + 1
            judge.most = max(judge.most, judge.here)
        time.sleep(THINKING_SECONDS)
        with judge.lock:
            judge.here -= 1
        user = json.loads(body)["messages"][1]["content"].splitlines()[-2]
        answer = {"choices": [{"message": {"content": f"Score: {zlib.crc32(user.encode()) % 11}"}}]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_judge_that_thinks_for_two_seconds_starves_no_run(
    new_run: Callable[[str], Any],
    small_run_arguments: Callable[[Any], Sequence[str]],
    judge: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    tasks = tmp_path / "tasks.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "payload": {"criteria": "Is it right?"}} for a in range(9) for b in range(9)]
    tasks.write_text("\n".join(map(json.dumps, rows)) + "\n")
    run = new_run("judged")
    options = {
        "steps": STEPS,
        "rollout.group_size": SAMPLES,
        "learner.groups_per_step": GROUPS,
        "environments.0.name": "judged",
        "environments.0.plugin": "dataset",
        "environments.0.options.path": tasks,
        "environments.0.options.verifier": "judge",
        "verifier.options.judge.url": judge.url,
        "verifier.options.judge.model": "thinker",
        "verifier.options.judge.key_env": "JUDGE_KEY",
        "verifier.environment": '["JUDGE_KEY"]',
    }
    words = (word for key, value in options.items() for word in ("--set", f"{key}={value}"))
    run.start(*small_run_arguments(run), *words)
    assert run.wait(400) == 0, run.tail()
    assert [row["step"] for row in run.metrics()] == list(range(1, STEPS + 1))
    groups = run.summary()["groups"]
    assert "no_verdict" not in groups["dropped"], groups
    assert judge.most > 2, "more calls at once than there are verifier workers"
    assert judge.asked >= STEPS * GROUPS * SAMPLES
    assert judge.keys == {f"Bearer {KEY}"}
    files = [path for path in run.root.rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in (*files, run.output) if KEY.encode() in path.read_bytes()]
