"""Files that people hand in: what is read, and the word for what is not."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.environments.files.dataset import DatasetEnvironment
from rlserve.errors import InvalidRequest
from rlserve.text_files import lines_of, read_text

ROWS = '{"prompt": "caf\u00e9", "answer": "1"}\n{"prompt": "b", "answer": "2"}\n'


@pytest.mark.parametrize(
    "data",
    [
        ROWS.encode(),
        b"\xef\xbb\xbf" + ROWS.encode(),
        ROWS.replace("\n", "\r\n").encode(),
        ROWS.replace("\n", "\r").encode(),
        ROWS.rstrip().encode(),
        ("\n\n" + ROWS + "  \n\r\n").encode(),
        ROWS.replace("\n", "\r\n\r\n").encode(),
    ],
    ids=["plain", "mark", "windows", "old mac", "no last line end", "blank lines", "blank windows lines"],
)
def test_every_spelling_of_a_text_file_is_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    environment = DatasetEnvironment(path=str(path), verifier="exact")
    assert [environment.task("train", index, 0).prompt for index in range(2)] == ["caf\u00e9", "b"]
    assert environment.splits == {"train": 2}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (ROWS.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (ROWS.encode("utf-16-le"), "UTF-16 text without its mark"),
        (ROWS.encode("utf-16-be"), "UTF-16 text without its mark"),
        (ROWS.encode("utf-32"), "UTF-32"),
        (ROWS.encode("latin-1"), "line 1 is not UTF-8: byte 0xe9"),
        (b"\n\n" + b'{"prompt": "\xc0"}', "line 3 is not UTF-8: byte 0xc0"),
        (b"PAR1\x15\x04\xc0", "Parquet"),
        (gzip.compress(ROWS.encode()), "gzip"),
        (b"ARROW1\x00\x00", "Arrow"),
        (b"PK\x03\x04\x14\x00", "ZIP archive or a spreadsheet"),
        (b"\x28\xb5\x2f\xfd\x00", "zstd"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x80\x04\x95\x00\x00\x00", "binary"),
        (b"", "has no rows"),
        (b"\xef\xbb\xbf", "has no rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_is_refused_by_what_it_is(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"^path: '.*a\.jsonl'") as caught:
        DatasetEnvironment(path=str(path), verifier="exact")
    assert word in str(caught.value)


def test_a_directory_and_an_absent_file_are_called_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="it is a directory"):
        read_text(tmp_path)
    with pytest.raises(InvalidRequest, match="No such file"):
        read_text(tmp_path / "none")


@given(st.lists(st.text(st.characters(exclude_characters="\r\n"), max_size=5), max_size=8))
def test_lines_keep_their_numbers_whatever_ends_them(lines: list[str]) -> None:
    wanted = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    for end in ("\n", "\r\n", "\r"):
        assert list(lines_of(end.join(lines))) == wanted
