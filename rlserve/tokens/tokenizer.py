"""Loads and fingerprints tokenizers, and turns text into tokens and back."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol


class Tokenizer(Protocol):
    """The methods of a Hugging Face tokenizer that rlserve uses."""

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


def load_tokenizer(path: str, template_arguments: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint directory or hub name, whose chat template always gets ``template_arguments``.

    Runs no remote code.
    """
    # Here: its import takes seconds, which importers of this module need not pay.
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if template_arguments:
        # Bound here, so that whatever renders with this tokenizer renders alike: prompts, turns, probes of its end.
        tokenizer.apply_chat_template = partial(tokenizer.apply_chat_template, **template_arguments)
    loaded: Tokenizer = tokenizer
    return loaded


def fingerprint(tokenizer: Tokenizer) -> str:
    """Digest of vocabulary and special tokens: equal exactly when token ids mean the same."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    text = json.dumps([vocabulary, sorted(tokenizer.all_special_ids), tokenizer.eos_token_id])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text at the start of a sequence: with BOS if the tokenizer adds one, unless the text has it.

    EOS is left out even if the tokenizer adds one: the completion follows.
    """
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    start = added_in_front(tokenizer)
    return ids if ids[: len(start)] == start else [*start, *ids]


def added_in_front(tokenizer: Tokenizer) -> list[int]:
    """Tokens that the tokenizer adds in front of every text: usually none, or BOS."""
    # By a probe, since no attribute of the Tokenizer protocol says what a post-processor adds.
    probe = list(tokenizer.encode("a", add_special_tokens=False))
    whole = list(tokenizer.encode("a"))
    places = (place for place in range(len(whole)) if whole[place : place + len(probe)] == probe)
    # 0 where "a" is encoded differently at the start of a sequence: then nothing counts as added.
    return whole[: next(places, 0)]


def decode_text(tokenizer: Tokenizer, ids: Sequence[int], *, unwritten: Collection[int] = ()) -> str:
    """The text of ``ids``, including special tokens except the ``unwritten`` ones."""
    written = [token for token in ids if token not in unwritten]
    # clean_up_tokenization_spaces would remove blanks before punctuation, which the policy did sample.
    return str(tokenizer.decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False))
