"""Overlap of tasks with an evaluation."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.cli.env.overlap import all_ngrams, contaminated, ngrams, overlap, words_of
from rlserve.cli.main import main

words = st.lists(st.sampled_from(["one", "two", "three", "four", "five", "six"]), min_size=1, max_size=30).map(" ".join)


@given(words, st.integers(1, 15))
def test_a_text_overlaps_itself_wholly_and_what_is_foreign_not_at_all(text: str, n: int) -> None:
    assert overlap(text, all_ngrams([text], n), n) == 1.0
    assert overlap(text, all_ngrams(["seven eight nine"], n), n) == 0.0


@given(words, st.lists(words, max_size=4), st.integers(1, 6))
def test_more_known_texts_never_lower_the_overlap(text: str, known: list[str], n: int) -> None:
    shares = [overlap(text, all_ngrams(known[:count], n), n) for count in range(len(known) + 1)]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_case_punctuation_and_blanks_do_not_hide_a_copy() -> None:
    assert words_of("  One, two -- THREE!") == ["one", "two", "three"]
    assert ngrams("a b c", 2) == ngrams("A,  b. C?", 2)
    assert ngrams("", 3) == []


def test_a_threshold_of_zero_marks_nothing() -> None:
    assert contaminated([(1, "a b")], all_ngrams(["a b"], 2), n=2, threshold=0.0) == []


def test_suspect_tasks_are_reported_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(path: Path, *texts: str) -> str:
        path.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
        return str(path)

    long = "how many apples does the old man with the grey hat have left after he gave two to each child"
    train = lines(tmp_path / "train", "what is 2 + 2?", long.upper() + "!", "something else entirely, in other words")
    test = lines(tmp_path / "test", long, "What is 2+2")
    out = tmp_path / "clean"
    assert main(["env", "decontaminate", train, test]) == 1
    assert "2 share 50% or more, 2 of them all" in capsys.readouterr().out
    assert main(["env", "decontaminate", train, test, "--out", str(out)]) == 0
    assert [json.loads(line)["question"] for line in out.read_text().splitlines()] == [
        "something else entirely, in other words"
    ]
    assert main(["env", "decontaminate", train, test, "--field", "prompt"]) == 1
    assert "line 1 has no prompt" in capsys.readouterr().err
