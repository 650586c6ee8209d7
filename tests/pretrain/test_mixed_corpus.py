"""Several corpora in one: shares, purity, and what a configuration may say."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from rlserve.config.tables.pretrain import CorpusConfig
from rlserve.pretrain.corpus import open_corpus, tokenizer_texts


def corpus_file(path: Path, word: str) -> CorpusConfig:
    path.write_text("".join(json.dumps({"prompt": f"{word}{i}", "completion": "!"}) + "\n" for i in range(5)))
    return CorpusConfig(path=str(path))


def test_each_part_has_its_share_of_any_stretch(tmp_path: Path) -> None:
    parts = [corpus_file(tmp_path / "a", "a"), corpus_file(tmp_path / "b", "b").model_copy(update={"weight": 3.0})]
    corpus = open_corpus(CorpusConfig(mixture=parts), seed=0)
    for start in (0, 1234):
        counts = Counter(corpus.pair(index)[0][0] for index in range(start, start + 400))
        assert abs(counts["a"] - 100) <= 2
        assert abs(counts["b"] - 300) <= 2
    assert [corpus.pair(i) for i in range(50)] == [
        open_corpus(CorpusConfig(mixture=parts), seed=0).pair(i) for i in range(50)
    ]


def test_a_tokenizer_sees_every_part(tmp_path: Path) -> None:
    parts = [corpus_file(tmp_path / "a", "x"), corpus_file(tmp_path / "b", "y"), CorpusConfig(environment="arithmetic")]
    texts = "".join(tokenizer_texts(open_corpus(CorpusConfig(mixture=parts), seed=0)))
    assert set("xy!0123456789+=;#") <= set(texts)


def test_a_corpus_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a"
    config = corpus_file(path, "a")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert open_corpus(config, seed=0).size == 5


def test_a_corpus_is_one_thing(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="exactly one of the three"):
        CorpusConfig(environment="arithmetic", mixture=[CorpusConfig(environment="arithmetic")])
    with pytest.raises(ValidationError, match="exactly one of the three"):
        CorpusConfig()
