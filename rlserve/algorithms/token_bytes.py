"""The bytes that each token of a Hugging Face tokenizer stands for, and where tokens end in a text.

Character offsets are not enough: tokens of byte-level and byte-fallback vocabularies may end inside a character.
Exact ways to spell: byte-level (GPT-2, Llama 3, Qwen), metaspace with or without byte fallback (Llama 2, Gemma),
and plain pieces that are joined as they are. Others change what they join (WordPiece, pieces that end with ``</w>``):
their tokens' ends come from the tokenizer's own offsets or from decoding, and their bytes, which only match the
vocabularies, are those in the middle of a text.
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
"""Special tokens that are no text. Others, such as tags of tool calls and thoughts, stand for what they look like."""
_MARK = re.compile(r"[<\[].+[>\]]")
"""How a piece looks that stands for unknown text; a model may take a piece that is text for it."""
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Spelling:
    """What each token id of a vocabulary stands for."""

    pieces: tuple[bytes, ...]
    """By token id; ends, padding and their like stand for nothing, other special tokens for what they look like."""
    is_exact: bool
    """Joined, the pieces of a text's tokens are the text."""


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The special tokens of a Hugging Face tokenizer that are no text."""
    named = [getattr(tokenizer, f"{name}_token_id", None) for name in CONTROL]
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    unknown = getattr(model, "unk_token", None)  # also where the tokenizer around it does not name it
    if unknown and _MARK.fullmatch(unknown) and not _FALLBACK.fullmatch(unknown):
        named.append(model.token_to_id(unknown))
    return frozenset(token for token in named if token is not None)


def spelling_of(tokenizer: Any, *, silent: Collection[int] = ()) -> Spelling:
    """The spelling of a Hugging Face tokenizer; ``silent`` tokens stand for nothing, as control tokens do."""
    vocabulary = tokenizer.get_vocab()
    spelled = [b""] * (max(vocabulary.values()) + 1)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description = {} if backend is None else json.loads(backend.to_str())
    style = "decoded" if backend is None else style_of(description)
    added = {token["id"] for token in description.get("added_tokens", [])}
    nothing = control_ids(tokenizer) | set(silent)
    as_written = {*tokenizer.all_special_ids, *added}
    for piece, number in vocabulary.items():
        if number in nothing:
            continue
        if number in as_written:
            spelled[number] = piece.encode()
        elif style == "decoded":
            spelled[number] = str(tokenizer.decode([number])).encode()
        else:
            spelled[number] = piece_bytes(piece, style)
    return Spelling(tuple(spelled), is_exact=style in EXACT)


def style_of(description: dict[str, Any]) -> str:
    """How a fast tokenizer joins its pieces, from its own description: one of ``EXACT``, or

    ``"wordpiece"`` (``##`` inside of words), ``"suffix"`` (``</w>`` at their ends) or ``"decoded"`` (anything else).
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


def counterparts(
    theirs: Sequence[bytes], ours: Sequence[bytes], *, their_end: int | None, our_end: int | None
) -> list[int]:
    """For each of their tokens ours that stands for the same bytes, or -1; the ends of sequence are the same.

    Of several tokens with the same bytes the first on each side is matched, so that no token is matched twice.
    """
    first = {spelled: token for token, spelled in reversed(list(enumerate(ours))) if spelled}
    found = [-1] * len(theirs)
    for token, spelled in enumerate(theirs):
        found[token] = first.pop(spelled, -1) if spelled else -1
    if their_end is not None and our_end is not None:
        found[their_end] = our_end
    return found


def ends_in_text(pieces: Sequence[bytes], text: str) -> list[int]:
    """Offset in ``text``, in bytes, after each token; ``pieces`` are the tokens' bytes.

    A space that the tokenizer put in front is not counted. Raises InvalidRequest when the tokens spell
    something else.
    """
    spelled, wanted = b"".join(pieces), text.encode()
    if spelled not in (wanted, b" " + wanted):
        raise InvalidRequest(f"token_ids: spell {spelled[:80]!r}, not {wanted[:80]!r}; give the text of these tokens")
    added = len(spelled) - len(wanted)
    return [max(0, end - added) for end in accumulate(map(len, pieces))]


def ends_by_offsets(offsets: Sequence[tuple[int, int]], text: str) -> list[int]:
    """Offset in ``text``, in bytes, after each token, from the characters that a fast tokenizer says it covers."""
    bytes_before = [0, *accumulate(len(character.encode()) for character in text)]
    return list(accumulate((bytes_before[stop] for _, stop in offsets), max))


def ends_by_decoding(decode: Callable[[list[int]], str], ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of ``ids``, and the offset in it, in bytes, after each token.

    A token ends where the text of the tokens up to it stops to agree with the whole text: what a later token changes
    (a space that is taken back) belongs to the later one.
    """
    whole = decode(list(ids))
    shared = (_agreement(decode(list(ids[: place + 1])), whole) for place in range(len(ids)))
    return whole, list(accumulate((len(whole[:characters].encode()) for characters in shared), max))


def _in_a_text(letters: str, *, is_word: bool) -> bytes:
    """A whole word stands behind a space, what is inside of one and punctuation does not."""
    return (" " * (is_word and letters[:1].isalnum()) + letters).encode()


def _agreement(left: str, right: str) -> int:
    """Characters that both begin with."""
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
    """Character that stands for each byte in byte-level vocabularies (GPT-2): printable ones for themselves."""
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(themselves)]
    return {chr(byte): byte for byte in themselves} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _alphabet()
