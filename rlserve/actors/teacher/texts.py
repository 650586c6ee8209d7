"""Text as a teacher's own tokens, with the place where each of them ends."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlserve.actors.teacher.scoring import Query
from rlserve.actors.tokenizer import Tokenizer, encode_prompt
from rlserve.algorithms.token_bytes import ends_in_text, vocabulary_bytes
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TextQuery:
    """A prompt and a completion, to be scored by a teacher with a tokenizer of its own."""

    prompt: str | tuple[Message, ...]
    completion: str
    ended: bool
    """Whether the completion's last token was the end of sequence; the teacher's own end is then scored too."""
    k: int = 0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelled:
    """A text query in the teacher's tokens."""

    query: Query
    ends: tuple[int, ...]
    """Byte offset in the completion after each scored token."""


class Speller:
    """Text to tokens for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes: list[bytes] | None = None

    def spell(self, text: TextQuery) -> Spelled:
        """Raises InvalidRequest for a text without tokens, or a tokenizer whose way to spell is not known."""
        task = Task(
            environment="",
            split="",
            index=0,
            task_id="the request",
            prompt=text.prompt,
            verifier="",
            payload=b"",
        )
        prompt, _ = encode_prompt(self._tokenizer, task, max_tokens=2**31)
        completion = list(self._tokenizer.encode(text.completion, add_special_tokens=False))
        ends = ends_in_text([self.spelling[token] for token in completion], text.completion)
        if text.ended and self._tokenizer.eos_token_id is not None:
            completion.append(self._tokenizer.eos_token_id)
            ends.append(ends[-1] if ends else 0)
        if not completion:
            raise InvalidRequest("completion_text: is empty, and no end is to be scored; give text")
        query = Query(
            token_ids=np.array([*prompt, *completion], dtype=np.int64),
            first=len(prompt),
            count=len(completion),
            k=text.k,
            temperature=text.temperature,
        )
        return Spelled(query=query, ends=tuple(ends))

    @property
    def end_id(self) -> int | None:
        """The end of sequence."""
        return self._tokenizer.eos_token_id

    @property
    def spelling(self) -> list[bytes]:
        """Bytes of each token. Raises InvalidRequest for a tokenizer whose way to spell is not known."""
        if self._bytes is None:
            tokenizer: Any = self._tokenizer
            self._bytes = vocabulary_bytes(tokenizer)
        return self._bytes
