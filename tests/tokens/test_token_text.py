"""Where tokens end in a text, for every way in which Hugging Face tokenizers spell."""

from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from rlserve.errors import InvalidRequest
from rlserve.tokens.alignment import align
from rlserve.tokens.token_bytes import shared_tokens
from rlserve.tokens.token_text import TokenText, whole_text

CORPUS = ["hello world, Hello there", "the world is \u00e9t\u00e9 \u4f60\u597d", "don't low lower lowest"] * 3
WORDS = st.sampled_from(["hello", "World", "the", "\u00c9t\u00e9", "\u4f60\u597d", "lowest", "don't", "a,b", "#7;"])
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)


def wrapped(backend: Tokenizer, trainer: Any) -> Any:
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@lru_cache
def built(name: str) -> Any:
    alphabet = list("abcdefghijklmnopqrstuvwxyzHWE,#;'7\u00e9\u4f60\u597d")
    if name == "wordpiece":  # as BERT: lower case, ``##`` inside of words, spaces lost
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        special = ["[UNK]"]
        return wrapped(backend, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False))
    if name == "suffix":  # as GPT-1 and CLIP
        backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        trainer = trainers.BpeTrainer(
            vocab_size=120,
            special_tokens=["<unk>"],
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        )
        return wrapped(backend, trainer)
    if name == "byte_level":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        return wrapped(backend, trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False))
    if name == "lower":  # spells its bytes exactly, but not those of the text
        backend = Tokenizer(models.BPE())
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        return wrapped(backend, trainers.BpeTrainer(vocab_size=280, initial_alphabet=letters, show_progress=False))
    assert name == "bytes"
    return ByT5Tokenizer()  # in Python, without offsets


NAMES = ("wordpiece", "suffix", "byte_level", "lower", "bytes")


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_tokens_of_a_text_end_in_order_and_the_last_at_its_end(name: str, text: str) -> None:
    ids, ends = TokenText(built(name)).write(text)
    assert ids == built(name).encode(text, add_special_tokens=False)
    assert len(ends) == len(ids)
    assert ends == sorted(ends)
    assert ends[-1] == len(text.encode())


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_the_tokenizer_decodes(name: str, text: str) -> None:
    tokenizer = built(name)
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    read, ends = TokenText(tokenizer).read(ids)
    assert read == tokenizer.decode(ids, skip_special_tokens=True)
    assert ends == sorted(ends) and len(ends) == len(ids)
    assert ends[-1] == ends[-2] == len(read.encode()), "an end of sequence stands for no text"


@settings(max_examples=30, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("teacher", NAMES)
@pytest.mark.parametrize("student", NAMES)
def test_any_student_meets_any_teacher_at_the_end_of_each_word(student: str, teacher: str, text: str) -> None:
    tokenizer = built(student)
    sampled = tokenizer.encode(text, add_special_tokens=False)
    read, ours = TokenText(tokenizer).read(sampled)
    _, theirs = TokenText(built(teacher)).write(read)
    spans = align(ours, theirs)
    met = {ours[span.student_stop - 1] for span in spans}
    words = [len(read[:place].encode()) for place in range(1, len(read) + 1) if read[place : place + 1] in ("", " ")]
    assert met >= set(words)


def test_vocabularies_of_different_spellings_have_words_in_common() -> None:
    bytes_of = {name: TokenText(built(name)).token_bytes.pieces for name in NAMES}
    for name in ("wordpiece", "suffix"):
        shared = shared_tokens(bytes_of[name], bytes_of["byte_level"], their_end=None, our_end=None)
        words = {bytes_of[name][token] for token, ours in enumerate(shared) if ours >= 0}
        assert {b" world", b"o", b","} <= words, (name, sorted(words))
    assert not any(spelled for spelled in bytes_of["wordpiece"] if spelled in (b"[UNK]", b"<eos>"))


def test_a_tokenizer_without_offsets_that_changes_the_text_is_refused() -> None:
    class Shouting(ByT5Tokenizer):  # type: ignore[misc]
        def decode(self, *arguments: Any, **options: Any) -> str:
            return str(super().decode(*arguments, **options)).upper()

    with pytest.raises(InvalidRequest, match=r"decode to 'HELLO'.*take a fast tokenizer"):
        TokenText(Shouting()).write("hello")


def test_text_ends_before_half_a_character() -> None:
    assert whole_text("a\u00e9".encode()[:-1]) == "a"
    assert whole_text("a\u00e9".encode()) == "a\u00e9"
