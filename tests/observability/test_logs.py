"""What peers say cannot forge a log's lines or reach a terminal raw."""

import json
import logging
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rlserve.observability.events import MAX_FIELD, EventLog
from rlserve.observability.logs import OneLine
from rlserve.observability.printable import MAX_LINE, printable

RECORD = re.compile(r"^\d\d:\d\d:\d\d ")
FORGED = "w0\n07:00:00 learner ERROR rlserve: FORGED \x1b[2J\x9b31m\u202egnorw"


def formatted(message: str, *arguments: object, error: Exception | None = None) -> str:
    form = OneLine("%(asctime)s learner %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    info = (type(error), error, error.__traceback__) if error else None
    return form.format(logging.LogRecord("rlserve.x", logging.ERROR, __file__, 1, message, arguments, info))


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_record_begins_one_line_and_holds_no_control_character(message: str, reason: str) -> None:
    try:
        raise ValueError(reason)
    except ValueError as error:
        text = formatted("%s joined", message, error=error)
    lines = text.split("\n")
    assert [bool(RECORD.match(line)) for line in lines] == [True] + [False] * (len(lines) - 1)
    assert all(line.isprintable() or _only_unassigned(line) for line in lines)


def _only_unassigned(line: str) -> bool:
    """What Unicode has not given out yet, or spaces of other scripts: no control, no mark of direction."""
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in line)


def test_forged_lines_and_escapes_stay_within_their_line() -> None:
    text = formatted("%s joined the stream", FORGED)
    assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text
    first, *rest = text.split("\n")
    assert first.endswith("w0") and rest[0].startswith("    07:00:00")
    assert printable("a\x1b[31m\nb\u202ec\U000e0041") == "a\\x1b[31m\\nb\\u202ec\\U000e0041"
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"


def test_lines_and_tracebacks_are_bounded() -> None:
    assert len(formatted("%s", "x" * 3_000_000)) < MAX_LINE + 200
    assert "(3000000 characters)" in formatted("%s", "x" * 3_000_000)
    text = formatted("first\n" + "line\n" * 100_000)
    assert text.count("\n") < 210 and "(99801 lines)" in text


def test_set_up_speaks_this_format_whatever_the_actor_is_called() -> None:
    program = (
        "import logging, sys; from rlserve.observability import logs; logs.set_up(sys.argv[1]);"
        "logging.getLogger('rlserve.x').info('here\\x1b %s', sys.argv[1])"
    )
    actor = "a%s\n07:00:00 FORGED\x1b"
    done = subprocess.run([sys.executable, "-c", program, actor], capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()
    assert "\x1b" not in done.stderr and RECORD.match(first) and second == "    07:00:00 FORGED\\x1b"


def test_events_are_one_line_each_bounded_and_private(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("warning", message=FORGED)
    log.write("warning", message="x" * 3_000_000)
    raw = (tmp_path / "events.jsonl").read_bytes()
    assert all(32 <= byte < 127 or byte == 10 for byte in raw)
    first, second = (json.loads(line) for line in raw.splitlines())
    assert first["message"] == FORGED and len(second["message"]) < MAX_FIELD + 100
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o077 == 0
