import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlserve.errors import InvalidRequest
from rlserve.tokens.alignment import align
from rlserve.tokens.token_bytes import ends_in_text, token_bytes_of

CORPUS = ["hello world, hello there", "the world is \u00e9t\u00e9 \u4f60\u597d", "a b  c \U0001f600 hello"] * 3
TEXTS = st.text(alphabet="helo wrd \u00e9\u4f60\U0001f600,", min_size=1, max_size=25)


def wrapped(backend):
    backend.add_special_tokens(["<eos>"])
    backend.add_tokens(["<tool>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", clean_up_tokenization_spaces=False)


def byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return wrapped(backend)


def metaspace():
    """As Llama 2: a space in front, spaces as pieces, unknown characters as bytes."""
    fallback = {f"<0x{byte:02X}>": byte for byte in range(256)}
    letters = {letter: 256 + i for i, letter in enumerate("\u2581helowrd,")}
    merges = [("h", "e"), ("l", "l"), ("\u2581", "w")]
    merged = {"".join(pair): 256 + len(letters) + i for i, pair in enumerate(merges)}
    backend = Tokenizer(models.BPE(fallback | letters | merged, merges, byte_fallback=True, unk_token="<0x00>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(backend)


def characters():
    letters = {letter: i for i, letter in enumerate("helo wrd\u00e9\u4f60\U0001f600,")}
    backend = Tokenizer(models.WordLevel(letters, unk_token="h"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return wrapped(backend)


BUILT = {"byte_level": byte_level(), "metaspace": metaspace(), "characters": characters()}


def pieces(name, text):
    tokenizer = BUILT[name]
    spelled = token_bytes_of(tokenizer).pieces
    return [spelled[i] for i in tokenizer.encode(text, add_special_tokens=False)]


@settings(max_examples=60, deadline=None)
@given(TEXTS)
@pytest.mark.parametrize("name", BUILT)
def test_the_bytes_of_all_tokens_are_the_text(name, text):
    ends = ends_in_text(pieces(name, text), text)
    assert ends[-1] == len(text.encode())
    assert ends == sorted(ends)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
@pytest.mark.parametrize("student", BUILT)
@pytest.mark.parametrize("teacher", BUILT)
def test_any_two_tokenizers_align_over_the_whole_text(student, teacher, text):
    student_ends, teacher_ends = (ends_in_text(pieces(name, text), text) for name in (student, teacher))
    spans = align(student_ends, teacher_ends)
    assert spans[0].student_start == spans[0].teacher_start == 0
    assert student_ends[spans[-1].student_stop - 1] == teacher_ends[spans[-1].teacher_stop - 1] == len(text.encode())
    for span in spans:
        assert student_ends[span.student_stop - 1] == teacher_ends[span.teacher_stop - 1]


def test_special_tokens_stand_for_no_text_and_added_words_for_themselves():
    for tokenizer in BUILT.values():
        spelled = token_bytes_of(tokenizer).pieces
        assert spelled[tokenizer.convert_tokens_to_ids("<eos>")] == b""
        assert spelled[tokenizer.convert_tokens_to_ids("<tool>")] == b"<tool>"


def test_tokens_may_end_inside_a_character():
    assert pieces("byte_level", "\u4f60\U0001f600") != []
    ends = ends_in_text(pieces("metaspace", "\U0001f600"), "\U0001f600")
    assert ends == [0, 1, 2, 3, 4]


def test_tokens_of_another_text_are_refused():
    with pytest.raises(InvalidRequest, match="stand for b'hello', not b'world'"):
        ends_in_text([b"he", b"llo"], "world")
