"""The bytes that each token of a Hugging Face tokenizer stands for, so that token ends in a text are exact.

Character offsets are not enough: tokens of byte-level and byte-fallback vocabularies may end inside a character.
Known ways to spell: byte-level (GPT-2, Llama 3, Qwen), metaspace with or without byte fallback (Llama 2, Gemma),
and plain pieces that are joined as they are.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from rlserve.errors import InvalidRequest

METASPACE = "\u2581"
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def vocabulary_bytes(tokenizer: Any) -> list[bytes]:
    """Bytes of each token id of a fast tokenizer; special tokens stand for none.

    Raises InvalidRequest for a tokenizer whose way to spell is not known.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    style = spelling(description)
    added = {token["id"]: token for token in description["added_tokens"]}
    vocabulary = tokenizer.get_vocab()
    spelled = [b""] * (max(vocabulary.values()) + 1)
    for piece, number in vocabulary.items():
        token = added.get(number)
        if token is None:
            spelled[number] = piece_bytes(piece, style)
        elif not token["special"]:
            spelled[number] = piece.encode()
    return spelled


def spelling(description: dict[str, Any]) -> str:
    """``"byte_level"``, ``"metaspace"`` or ``"plain"``, from a tokenizer's own description."""
    steps = list(_steps(description.get("decoder")))
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return "byte_level"
    if "Metaspace" in kinds or any(step.get("pattern") == {"String": METASPACE} for step in steps):
        return "metaspace"
    if kinds <= {"Fuse"}:
        return "plain"
    raise InvalidRequest(
        f"tokenizer: decodes by {', '.join(sorted(kinds))}, which does not say which bytes a token stands for; "
        "take one that is byte-level, metaspace, or joins its pieces as they are"
    )


def piece_bytes(piece: str, style: str) -> bytes:
    """Bytes of one vocabulary entry."""
    if style == "byte_level":
        return bytes(_BYTE_OF[character] for character in piece)
    if style == "plain":
        return piece.encode()
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
