"""The bytes that each token of a Hugging Face tokenizer stands for, and where tokens end in a text.

Character offsets are not enough: tokens of byte-level and byte-fallback vocabularies may end inside a character.
Three styles are exact, the joined pieces are the text: byte-level (GPT-2, Llama 3, Qwen), metaspace with or without
byte fallback (Llama 2, Gemma), and plain pieces. Others change what they join (WordPiece, pieces that end with
``</w>``): the ends of their tokens come from the tokenizer's own offsets or from decoding, and their bytes, which serve
only to find the shared tokens of two vocabularies, are those in the middle of a text.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rlserve.errors import InvalidRequest

EXACT = frozenset({"byte_level", "metaspace", "plain"})
METASPACE = "\u2581"
CONTROL = ("bos", "eos", "unk", "pad", "cls", "sep", "mask")
"""Special tokens without text. Others, such as tags of tool calls and thoughts, stand for their own characters."""
_MARK = re.compile(r"[<\[].+[>\]]")
"""A piece in brackets stands for unknown text. Some models name an ordinary piece as their unknown token."""
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """The bytes of each token of a vocabulary.

    Example, a byte-level tokenizer whose tokens 5, 6 are half a character each::

        token_bytes.pieces[5], token_bytes.pieces[6]     # two bytes, together the letter e with an acute
        token_bytes.is_exact                             # True
    """

    pieces: tuple[bytes, ...]
    """By token id; empty for ends, padding and other control tokens."""
    is_exact: bool
    """The joined pieces of a text's tokens are the text."""


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The special tokens of a Hugging Face tokenizer without text."""
    named = [getattr(tokenizer, f"{name}_token_id", None) for name in CONTROL]
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    unknown = getattr(model, "unk_token", None)  # also where the tokenizer around it does not name it
    if unknown and _MARK.fullmatch(unknown) and not _FALLBACK.fullmatch(unknown):
        named.append(model.token_to_id(unknown))
    return frozenset(token for token in named if token is not None)


def token_bytes_of(tokenizer: Any, *, silent: Collection[int] = ()) -> TokenBytes:
    """The bytes of each token of a Hugging Face tokenizer; ``silent`` tokens get none, as control tokens do."""
    vocabulary = tokenizer.get_vocab()
    pieces = [b""] * (max(vocabulary.values()) + 1)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description = {} if backend is None else json.loads(backend.to_str())
    style = "decoded" if backend is None else style_of(description)
    added = {token["id"] for token in description.get("added_tokens", [])}
    nothing = control_ids(tokenizer) | set(silent)
    as_written = {*tokenizer.all_special_ids, *added}
    for piece, number in vocabulary.items():
        if number in nothing:
            continue
        # Added tokens are matched before the model runs, and stored as plain text in every style.
        if number in as_written:
            pieces[number] = piece.encode()
        elif style == "decoded":
            pieces[number] = str(tokenizer.decode([number])).encode()
        else:
            pieces[number] = piece_bytes(piece, style)
    return TokenBytes(tuple(pieces), is_exact=style in EXACT)


def style_of(description: dict[str, Any]) -> str:
    """How a fast tokenizer joins its pieces, read from its own description.

    One of ``EXACT``, or ``"wordpiece"`` (``##`` inside of words), ``"suffix"`` (``</w>`` at their ends) or
    ``"decoded"`` (anything else).
    """
    steps = list(_steps(description.get("decoder")))
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return "byte_level"
    if "Metaspace" in kinds or any(step.get("pattern") == {"String": METASPACE} for step in steps):
        return "metaspace"
    if kinds <= {"Fuse"}:
        return "plain"
    return {"WordPiece": "wordpiece", "BPEDecoder": "suffix"}.get(steps[0]["type"], "decoded")


def piece_bytes(piece: str, style: str) -> bytes:
    """Bytes of one vocabulary entry."""
    if style == "byte_level":
        return bytes(_BYTE_OF[character] for character in piece)
    if style == "plain":
        return piece.encode()
    if style == "wordpiece":
        return _in_a_text(piece.removeprefix("##"), is_word=not piece.startswith("##"))
    if style == "suffix":
        return _in_a_text(piece.removesuffix("</w>"), is_word=piece.endswith("</w>"))
    fallback = _FALLBACK.fullmatch(piece)
    return bytes([int(fallback[1], 16)]) if fallback else piece.replace(METASPACE, " ").encode()


def shared_tokens(
    theirs: Sequence[bytes], ours: Sequence[bytes], *, their_end: int | None, our_end: int | None
) -> list[int]:
    """For each of their tokens, our token with the same bytes, or -1; the two ends of sequence are shared.

    Of several tokens with the same bytes only the first on each side is shared, so that no token is paired twice.
    """
    first = {piece: token for token, piece in reversed(list(enumerate(ours))) if piece}
    found = [-1] * len(theirs)
    for token, piece in enumerate(theirs):
        found[token] = first.pop(piece, -1) if piece else -1
    if their_end is not None and our_end is not None:
        found[their_end] = our_end
    return found


def ends_in_text(pieces: Sequence[bytes], text: str) -> list[int]:
    """Offset in ``text``, in bytes, after each token; ``pieces`` are the tokens' bytes.

    A space that the tokenizer put in front is not counted. Raises InvalidRequest when the pieces are not the text.
    """
    joined, wanted = b"".join(pieces), text.encode()
    if joined not in (wanted, b" " + wanted):
        raise InvalidRequest(
            f"token_ids: stand for {joined[:80]!r}, not {wanted[:80]!r}; give the text of these tokens"
        )
    added = len(joined) - len(wanted)
    # max: a token that is the added space alone ends at 0, not at -1.
    return [max(0, end - added) for end in accumulate(map(len, pieces))]


def ends_by_offsets(offsets: Sequence[tuple[int, int]], text: str) -> list[int]:
    """Offset in ``text``, in bytes, after each token, from the character offsets of a fast tokenizer."""
    bytes_before = [0, *accumulate(len(character.encode()) for character in text)]
    # max: offsets never decrease, also at a token without characters, whose offsets are (0, 0).
    return list(accumulate((bytes_before[stop] for _, stop in offsets), max))


def ends_by_decoding(decode: Callable[[list[int]], str], ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of ``ids``, and the offset in it, in bytes, after each token.

    A token ends where the text of the tokens up to it stops agreeing with the whole text: what a later token changes,
    such as a space that it removes, belongs to the later token.
    """
    whole = decode(list(ids))
    # One decoding per prefix: quadratic, so callers take it only where the pieces are not exact.
    shared = (_agreement(decode(list(ids[: place + 1])), whole) for place in range(len(ids)))
    return whole, list(accumulate((len(whole[:characters].encode()) for characters in shared), max))


def _in_a_text(letters: str, *, is_word: bool) -> bytes:
    """The bytes with a space in front for a whole word, without one inside of a word and for punctuation."""
    return (" " * (is_word and letters[:1].isalnum()) + letters).encode()


def _agreement(left: str, right: str) -> int:
    """Number of characters that both begin with."""
    both = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(left), len(right)))


def _steps(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] != "Sequence":
        yield decoder
    for step in decoder.get("decoders", []):
        yield from _steps(step)


def _alphabet() -> dict[str, int]:
    """Byte by the character that stands for it in byte-level vocabularies (GPT-2): printable bytes for themselves."""
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(themselves)]
    return {chr(byte): byte for byte in themselves} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _alphabet()
