"""What a dead process said, out of its log."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlserve.launch.last_words import MAX_CHARACTERS, last_words

LOGGED = "09:12:01 environment-0 ERROR rlserve.cli.runs.serve: environment-0: UnknownName: 'gsm9k' is not registered\n"
CRASH = """Traceback (most recent call last):
  File "/x/a.py", line 3, in f
    g()
  File "/x/b.py", line 14, in g
    raise KeyError("gold")
KeyError: 'gold'
"""
ENGINE = """(EngineCore pid=12) ERROR 11-27 09:00:01 [core.py:1] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-27 09:00:01 [core.py:1]   File "/x/vllm.py", line 9, in start
(EngineCore pid=12) ERROR 11-27 09:00:01 [core.py:1]     boom()
(EngineCore pid=12) ERROR 11-27 09:00:01 [core.py:1] vllm.errors.TooLong: 4096 is more than 64
"""


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (LOGGED, "UnknownName: 'gsm9k' is not registered"),
        ("noise\n" + LOGGED + "09:12:02 environment-0 INFO x: stops\n", "UnknownName: 'gsm9k' is not registered"),
        (CRASH, "KeyError: 'gold' (/x/b.py:14)"),
        (LOGGED + CRASH, "KeyError: 'gold' (/x/b.py:14)"),
        (ENGINE, "vllm.errors.TooLong: 4096 is more than 64 (/x/vllm.py:9)"),
        ("09:12:01 learner ERROR x: learner: a\nb\n09:12:02 learner INFO x: c\n", "a\nb"),
        ("only\nsome\n\nlines\n", "only\nsome\nlines"),
        ("", ""),
    ],
)
def test_the_last_error_is_found(log: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text(log)
    assert last_words(path) == words


def test_a_real_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with open(path, "wb") as file:
        subprocess.run([sys.executable, "-c", "import json\njson.loads('{')"], stderr=file, timeout=60, check=False)
    assert last_words(path).startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert "decoder.py:" in last_words(path)


def test_an_earlier_life_is_not_listened_to(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text(CRASH)
    assert last_words(path, since=path.stat().st_size) == ""
    assert last_words(tmp_path / "none.log") == ""


def test_a_page_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("x" * 10**6)
    assert len(last_words(path)) < MAX_CHARACTERS + 10
