"""Tokenizers as the actors use them: load, fingerprint, text to tokens and back."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the actors rely on."""

    eos_token_id: int | None
    pad_token_id: int | None
    all_special_ids: list[int]

    def get_vocab(self) -> dict[str, int]: ...
    def get_added_vocab(self) -> dict[str, int]: ...
    def __len__(self) -> int: ...
    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(
        self, ids: list[int], *, skip_special_tokens: bool = ..., clean_up_tokenization_spaces: bool = ...
    ) -> str: ...
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a checkpoint directory or hub name; no remote code is run."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    loaded: Tokenizer = tokenizer
    return loaded


def fingerprint(tokenizer: Tokenizer) -> str:
    """Digest of vocabulary and special tokens: equal exactly when token ids mean the same."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    text = json.dumps([vocabulary, sorted(tokenizer.all_special_ids), tokenizer.eos_token_id])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text that begins a sequence: with what the tokenizer puts in front (BOS), unless it is there.

    What the tokenizer would put behind it (EOS) is left out: the text goes on.
    """
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    start = added_in_front(tokenizer)
    return ids if ids[: len(start)] == start else [*start, *ids]


def added_in_front(tokenizer: Tokenizer) -> list[int]:
    """Tokens that the tokenizer puts in front of every text, mostly none or BOS."""
    probe = list(tokenizer.encode("a", add_special_tokens=False))
    whole = list(tokenizer.encode("a"))
    places = (place for place in range(len(whole)) if whole[place : place + len(probe)] == probe)
    return whole[: next(places, 0)]


def decode_text(tokenizer: Tokenizer, ids: Sequence[int], *, unwritten: Collection[int] = ()) -> str:
    """The text of ``ids`` with its special tokens, but for those that are ``unwritten``."""
    written = [token for token in ids if token not in unwritten]
    return str(tokenizer.decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False))
