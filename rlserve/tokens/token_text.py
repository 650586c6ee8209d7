"""Tokens to text and back, with the byte at which each token ends: two tokenizers are aligned at equal ends."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.tokens.alignment import end_offsets
from rlserve.tokens.token_bytes import (
    TokenBytes,
    control_ids,
    ends_by_decoding,
    ends_by_offsets,
    ends_in_text,
    token_bytes_of,
)
from rlserve.tokens.tokenizer import Tokenizer, decode_text


class TokenText:
    """A Hugging Face tokenizer as pieces of text. Offsets are UTF-8 bytes from the start of the text.

    Example::

        text, ends = TokenText(tokenizer).read([17, 4, 9])   # "12+", [1, 2, 3]
    """

    def __init__(self, tokenizer: Tokenizer, *, silent: Collection[int] = (), end_id: int | None = None) -> None:
        """``silent`` tokens have no text, like control tokens. ``end_id`` ends a text; None takes the tokenizer's."""
        self._tokenizer: Any = tokenizer
        self._silent = control_ids(tokenizer) | set(silent)
        self.end_id = tokenizer.eos_token_id if end_id is None else end_id
        """Token that ends a text."""

    # On first use: it visits the whole vocabulary, for the sake of teachers with another tokenizer alone.
    @cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of each token."""
        return token_bytes_of(self._tokenizer, silent=self._silent)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, without an incomplete character at its end."""
        return whole_text(b"".join(self._pieces(ids))) if self.token_bytes.is_exact else self._decode(list(ids))

    def read(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """The text of ``ids``, and the offset in it after each token."""
        if not self.token_bytes.is_exact:
            return ends_by_decoding(self._decode, ids)
        return self.text(ids), end_offsets(self._pieces(ids))

    def write(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of ``text``, and the offset after each. Raises InvalidRequest when they decode to other text."""
        ids: list[int] = list(self._tokenizer.encode(text, add_special_tokens=False))
        if self.token_bytes.is_exact:
            try:
                return ids, ends_in_text(self._pieces(ids), text)
            except InvalidRequest:  # the tokenizer normalises text before it splits it, e.g. to lower case
                pass
        if getattr(self._tokenizer, "is_fast", False):
            encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return list(encoded["input_ids"]), ends_by_offsets(encoded["offset_mapping"], text)
        again, ends = ends_by_decoding(self._decode, ids)
        if again != text:
            raise InvalidRequest(
                f"tokenizer: its tokens of {text[:80]!r} decode to {again[:80]!r}, and it gives no offsets; "
                "take a fast tokenizer"
            )
        return ids, ends

    def _pieces(self, ids: Sequence[int]) -> list[bytes]:
        pieces = self.token_bytes.pieces  # a model with a padded embedding may sample ids beyond them
        return [pieces[token] if token < len(pieces) else b"" for token in ids]

    def _decode(self, ids: list[int]) -> str:
        known = [token for token in ids if token < len(self.token_bytes.pieces)]
        return decode_text(self._tokenizer, known, unwritten=self._silent)


def whole_text(spelled: bytes) -> str:
    """The text up to the first invalid UTF-8 byte: a length limit may cut sampling inside a character."""
    try:
        return spelled.decode()
    except UnicodeDecodeError as error:
        return spelled[: error.start].decode()
