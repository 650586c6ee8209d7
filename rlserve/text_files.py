"""Reads text files of users: UTF-8 with or without a byte order mark, any line ends; clear errors for other files.

Data files, case files and configurations come from many people and programs. A byte order mark and Windows line ends
are accepted. The error for UTF-16, Parquet, archives and other binary files names the format; the error for a byte that
is not UTF-8 names the line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlserve.errors import InvalidRequest

MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32 text; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text; save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
    (b"PAR1", "a Parquet file; write its rows as JSON lines, e.g. by pandas' to_json(orient='records', lines=True)"),
    (b"ARROW1", "an Arrow file; write its rows as JSON lines, e.g. by datasets' to_json()"),
    (b"\xff\xff\xff\xff", "an Arrow stream; write its rows as JSON lines, e.g. by datasets' to_json()"),
    (b"\x1f\x8b", "compressed by gzip; unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it with unzstd"),
    (b"\xfd7zXZ\x00", "compressed by xz; unpack it with unxz"),
    (b"BZh", "compressed by bzip2; unpack it with bunzip2"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet; unpack it, or save the table as JSON lines"),
    (b"SQLite format 3\x00", "an SQLite database; write its rows as JSON lines"),
    (b"%PDF", "a PDF document; give text"),
    (b"\x93NUMPY", "a NumPy array; write its rows as JSON lines"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
)
"""First bytes of a file, and what such a file is. UTF-32 comes first: its marks begin as those of UTF-16 do."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LOOKED_AT_BYTES = 4096
"""Start of a file in which a NUL byte means that it is binary. Any value of this size will do: binary formats have one
early, and a text with one further on is still read."""


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file without its byte order mark. Raises InvalidRequest, naming another format."""
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        raise InvalidRequest(f"{name!r} cannot be read (it is a directory)") from None
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{name!r} cannot be read ({error})") from None
    for mark, what in MARKS:
        if data.startswith(mark):
            raise InvalidRequest(f"{name!r} cannot be read (it is {what})")
    if (place := data.find(b"\x00", 0, LOOKED_AT_BYTES)) >= 0:
        # UTF-16 of ASCII text has a NUL in each pair of bytes: the first or the second one, by byte order.
        what = "UTF-16 text without its mark; save it as UTF-8" if place < 2 else "a binary file"
        raise InvalidRequest(f"{name!r} cannot be read (it contains NUL bytes: is it {what}?)")
    try:
        return data.removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise InvalidRequest(
            f"{name!r} cannot be read (line {line} is not UTF-8: byte 0x{byte:02x}; save the file as UTF-8)"
        ) from None


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    # Not splitlines(): it also breaks at U+2028 and similar characters, which may stand inside JSON strings.
    breaks = "\n" if "\n" in text else "\r"
    for number, line in enumerate(text.split(breaks), start=1):
        line = line.removesuffix("\r").lstrip("\ufeff")  # files joined by cat keep the mark of each
        if line.strip():
            yield number, line


def json_object(line: str) -> dict[str, Any]:
    """The object of one line of JSON lines. Raises InvalidRequest, naming what the line is instead."""
    try:
        value = json.loads(line)
    except RecursionError:
        raise InvalidRequest("is not JSON: nested too deep") from None
    except ValueError as error:
        raise InvalidRequest(f"is not JSON: {error}{_hint(line)}") from None
    if not isinstance(value, dict):
        kind = "list" if isinstance(value, list) else type(value).__name__
        many = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
        raise InvalidRequest(
            f"is a JSON {kind}; give an object" + (" on each line, without brackets around all" if many else "")
        )
    return value


def _hint(line: str) -> str:
    """A guess at the common mistake behind a line that is not JSON; empty without one."""
    start = line.strip()
    if start in ("{", "["):
        return " (is one object or list spread over several lines? write each object on its own line)"
    if start.startswith("{'"):
        return " (is it a Python dictionary? JSON uses double quotation marks)"
    if start[:1] not in '{["' and "," in start:
        return " (is it a CSV file? write its rows as JSON lines)"
    return ""
