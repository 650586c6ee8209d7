"""The sample of hostile and honest programs, with every trap of theirs set, through ``rlserve verify code``."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rlserve.cli.verify import verify_file
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.sandbox.walls.tiers import UID_BASES

SHARED = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[2].parent / "shared"))
CASES = SHARED / "data" / "adversarial_code.jsonl"
DESTRUCTIVE = SHARED / "data" / "adversarial_code_destructive.jsonl"
HUMANEVAL = SHARED / "data" / "humaneval.jsonl"
QUICK = {"cpu_seconds": 1.0, "wall_seconds": 3.5}
SENTINEL = "labsec-sentinel-" + "482915"

needs = pytest.mark.skipif(not CASES.exists(), reason="needs the shared data (RLSERVE_SHARED)")


@pytest.fixture
def traps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the programs look for: a secret, a listener, an abstract socket, a text in memory."""
    monkeypatch.setenv("RL_SECRET_TOKEN", "labsec-secret-value")
    with socket.socket() as port, socket.socket(socket.AF_UNIX) as abstract:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", 46379))
        port.listen()
        abstract.bind("\0labsec-abstract")
        abstract.listen()
        yield
    for path in ("/labsec_pwned", "/tmp/labsec_pwned", "/tmp/labsec_state"):
        assert not os.path.exists(path)
    deadline = time.monotonic() + 5.0
    while _box_processes():
        assert time.monotonic() < deadline, "processes of boxes are left"
        time.sleep(0.05)


def _box_processes() -> list[psutil.Process]:
    everyone = psutil.process_iter(["uids", "status"])
    return [
        process
        for process in everyone
        if process.info["uids"]
        and process.info["uids"].real in range(UID_BASES.start, UID_BASES.stop)
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@needs
def test_every_sample_case_has_an_expected_outcome(tmp_path: Path, traps: None) -> None:
    rows = CASES.read_text().splitlines() + DESTRUCTIVE.read_text().splitlines()
    rows += [row for row in rows if json.loads(row)["id"] in ("d16_pool_state", "d17_zygote_state")]  # once more
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(rows))
    config = VerifierConfig(workers=2, spares=0, options={"code": QUICK})
    summary = verify_file("code", cases, tmp_path / "verdicts.jsonl", config=config)
    assert summary.unexpected == ()
    assert summary.num_expected == len(rows) > 75
    assert summary.num_without_verdict == 0


@needs
def test_humaneval_solutions_pass_and_spoilt_ones_do_not(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    with cases.open("w") as lines:
        for text in HUMANEVAL.read_text().splitlines():
            row = json.loads(text)
            for kind, source in _variants(row).items():
                tests = f"{row['test']}\ncheck({row['entry_point']})\n"
                case = {"id": f"{row['task_id']} {kind}", "kind": "function", "completion": source, "tests": tests}
                lines.write(json.dumps(case | {"prompt_entry_point": row["entry_point"]}) + "\n")
    verify_file("code", cases, tmp_path / "verdicts.jsonl", config=VerifierConfig(workers=2, spares=0))
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    passed = [verdict["id"] for verdict in verdicts if verdict["outcome"] == "pass"]
    assert len(passed) == 164
    assert all(case.endswith("whole") for case in passed)


def _variants(row: dict[str, str]) -> dict[str, str]:
    prompt, body, name = row["prompt"], row["canonical_solution"], row["entry_point"]
    cut = "\n".join(body.rstrip().split("\n")[:-1])
    negated = (
        f"\n_right = {name}\ndef {name}(*args):\n    value = _right(*args)\n"
        "    return not value if isinstance(value, bool) else -value - 1 if isinstance(value, int | float) else None\n"
    )
    return {
        "whole": prompt + body,
        "without its last line": f"{prompt}{cut}\n    pass\n",
        "negated": prompt + body + negated,
        "without a body": f"{prompt}    pass\n",
    }
