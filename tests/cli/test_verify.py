"""``rlserve verify``: a file of cases in, a file of verdicts out."""

import http.server
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from rlserve.cli.main import main
from rlserve.cli.verify import verify_file
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import InvalidRequest, UnknownName

CASES = [
    {"id": "a", "gold": "42", "answer": "\\boxed{42}", "expected": True},
    {"id": "b", "gold": "42", "answer": "41", "expected": False},
    {"id": "c", "gold": "1/2", "answer": "0.5", "expected": False},
    {"id": 4, "gold": "\ud800", "answer": "\u00bd"},
]

ONE = VerifierConfig(workers=1, spares=0)  # each judge process imports sympy


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_case_has_one_verdict_line_in_order(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "verdicts.jsonl"
    summary = verify_file(
        "math",
        write(tmp_path / "cases.jsonl", *CASES),
        out,
        config=ONE,
        progress=lambda done, total: seen.append((done, total)),
    )
    lines = read(out)
    assert [line["id"] for line in lines] == ["a", "b", "c", "4"]
    assert [(line["outcome"], line["reward"]) for line in lines[:3]] == [("pass", 1.0), ("fail", 0.0), ("pass", 1.0)]
    assert set(lines[0]) == {"id", "outcome", "reward", "passed", "total", "reason", "seconds"}
    assert (summary.unexpected, summary.num_expected) == (("c",), 3)
    assert sorted(seen) == [(done, 4) for done in range(1, 5)]
    assert list(tmp_path.glob("*.partial")) == []


def test_any_registered_verifier_takes_completions_and_payloads(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "completion": "#6", "payload": {"answer": "6", "marker": "#"}},
        {"id": "b", "completion": "6", "payload": {}},
    ]
    summary = verify_file("exact", write(tmp_path / "cases.jsonl", *rows), tmp_path / "out.jsonl", config=ONE)
    lines = read(tmp_path / "out.jsonl")
    assert [(line["outcome"], line["reward"]) for line in lines] == [("pass", 1.0), ("no_verdict", None)]
    assert summary.num_without_verdict == 1


def test_the_command_says_how_many_are_as_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = write(tmp_path / "cases.jsonl", *CASES[:3])
    assert main(["verify", "math", str(cases), "--out", str(tmp_path / "out.jsonl"), "--workers", "1"]) == 0
    assert capsys.readouterr().out == "3 cases: 1 fail, 2 pass\nas expected: 2 of 3\n  not as expected: c\n"


def test_the_documented_form_of_a_case_is_that_of_every_verifier(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "completion": "so it is \\boxed{42}", "payload": {"answer": "42"}},
        {"id": "b", "completion": "41", "payload": {"answer": ["42", "41"], "bare": True}, "prompt": None},
        {"id": 3, "gold": 42, "answer": "42"},
        {"id": 4, "gold": ["42", 0.5], "answer": "1/2"},
        {"id": 5, "completion": "so</think>\\boxed{42}", "payload": {"answer": "42"}, "prompt": "6*7? <think>"},
    ]
    summary = verify_file("math", write(tmp_path / "cases.jsonl", *rows), tmp_path / "out.jsonl", config=ONE)
    assert summary.outcomes == {"pass": 5}


def test_without_a_file_to_write_the_verdicts_are_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "a", "completion": "6", "payload": {"answer": "6"}},
        {"id": "b\x1b[31m", "completion": "5", "payload": {"answer": "6"}},
        {"id": "c", "completion": "6", "payload": {"answr": "6"}},
    ]
    assert main(["verify", "exact", str(write(tmp_path / "cases.jsonl", *rows)), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "outcome", "reward", "reason"]
    assert [line.split()[1:3] for line in lines[1:4]] == [["pass", "1"], ["fail", "0"], ["no_verdict", "-"]]
    assert "\x1b" not in "".join(lines)
    assert lines[4] == "3 cases: 1 fail, 1 no_verdict, 1 pass"
    assert lines[5].startswith("first without a verdict: c: ")
    assert "payload.answr: is unknown" in lines[5]


def test_the_forms_of_a_case_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    out = capsys.readouterr().out
    assert '{"id": "1", "completion": "so it is 42", "payload": {"answer": "42"}, "prompt": "6*7?"}' in out


@pytest.mark.parametrize(
    ("kind", "row", "fault"),
    [
        ("math", {"id": 1, "question": "x"}, "payload: is missing; give completion and payload, or gold and answer"),
        ("math", {"id": 1, "gold": "4"}, "answer: is missing"),
        ("math", {"id": 1, "answer": "4"}, "gold: is missing"),
        ("math", {"id": 1, "gold": True, "answer": "4"}, "gold: is True"),
        ("math", {"gold": "4", "answer": "4"}, "id: is missing"),
        ("math", {"id": 1, "completion": 4, "payload": {}}, "completion: is 4; give the text to verify"),
        ("exact", {"id": 1, "completion": "4"}, "payload: is missing; give completion and payload"),
        ("exact", {"id": 1, "completion": "4", "payload": {}, "prompt": 5}, "prompt: is 5"),
        ("exact", {"id": 1, "completion": "4", "payload": {}, "expected": 1}, "expected: is 1"),
        ("exact", {"id": 1, "completion": "4", "payload": {}, "expected": "pass", "accept": "fail"}, "accept: is"),
        ("code", {"id": 1, "completion": "4"}, "payload: is missing; give completion and payload, or completion, kind"),
    ],
)
def test_a_fault_of_a_case_names_line_and_field(tmp_path: Path, kind: str, row: Any, fault: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        verify_file(kind, write(tmp_path / "cases.jsonl", row), tmp_path / "out.jsonl")
    assert f"cases: line 1 is not a case for {kind} ({fault}" in str(caught.value)


def test_a_file_of_cases_may_have_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_bytes(b"\xef\xbb\xbf" + (json.dumps(CASES[0]) + "\r\n").encode() * 2)
    assert verify_file("math", cases, tmp_path / "out.jsonl", config=ONE).outcomes == {"pass": 2}


def test_options_reach_the_verifier(tmp_path: Path) -> None:
    cases = write(tmp_path / "cases.jsonl", {"id": "a", "gold": "50\\%", "answer": "50"})
    out = tmp_path / "out.jsonl"
    arguments = ["verify", "math", str(cases), "--out", str(out), "--workers", "1"]
    main(arguments)
    assert read(out)[0]["reward"] == 0.0
    main([*arguments, "--option", "percent=lenient"])
    assert read(out)[0]["reward"] == 1.0


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"id": 1}', '{"id": 1, "gold": "4", "answer": 4}', '{"gold": "4", "answer": "4"}']
)
def test_a_line_that_is_no_case_is_named_and_nothing_is_judged(tmp_path: Path, line: str) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps(CASES[0]) + "\n\n" + line + "\n")
    with pytest.raises(InvalidRequest, match="line 3 is not a case for math"):
        verify_file("math", cases, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_file_and_an_unknown_verifier_are_errors_for_people(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        verify_file("math", tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(UnknownName, match="'maths' is not registered"):
        verify_file("maths", write(tmp_path / "cases.jsonl"), tmp_path / "out.jsonl")


def test_every_strict_case_of_the_shared_file_comes_out_as_expected(tmp_path: Path) -> None:
    path = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[3] / "shared")) / "data/adversarial_math.jsonl"
    if not path.exists():
        pytest.skip("RLSERVE_SHARED names no folder with data/adversarial_math.jsonl")
    out = tmp_path / "out.jsonl"
    summary = verify_file("math", path, out)
    strict = {row["id"] for row in read(path) if row["strict"]}
    assert strict.isdisjoint(summary.unexpected)
    assert summary.num_without_verdict == 0


class Room(http.server.ThreadingHTTPServer):
    """A judge that answers when as many as ``size`` wait for it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, size: int) -> None:
        super().__init__(("127.0.0.1", 0), Waits)
        self.full = threading.Barrier(size)


class Waits(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        room = self.server
        assert isinstance(room, Room)
        self.rfile.read(int(self.headers["Content-Length"]))
        room.full.wait(60)
        data = json.dumps({"choices": [{"message": {"content": "Score: 8"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def test_a_file_is_judged_by_as_many_calls_at_once_as_the_judge_takes(tmp_path: Path) -> None:
    room = Room(64)
    threading.Thread(target=room.serve_forever, daemon=True).start()
    rows = [{"id": str(n), "completion": f"text {n}", "payload": {"criteria": "Is it right?"}} for n in range(64)]
    cases, out = write(tmp_path / "cases.jsonl", *rows), tmp_path / "verdicts.jsonl"
    url = f"http://127.0.0.1:{room.server_port}/v1"
    try:
        command = ["verify", "judge", str(cases), "--out", str(out), "--workers", "1", "--option", f"url={url}"]
        assert main([*command, "--option", "model=m"]) == 0
    finally:
        room.shutdown()
        room.server_close()
    assert [row["reward"] for row in read(out)] == [0.8] * 64
