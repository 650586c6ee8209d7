"""Text as a teacher's own tokens, with the place where each of them ends."""

from dataclasses import dataclass

import numpy as np

from rlserve.actors.teacher.scoring import Query
from rlserve.actors.token_text import TokenText
from rlserve.actors.tokenizer import Tokenizer, encode_prompt
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
        self.text = TokenText(tokenizer)

    def spell(self, text: TextQuery) -> Spelled:
        """Raises InvalidRequest for a text without tokens, or one that the tokenizer cannot write."""
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
        completion, ends = self.text.write(text.completion)
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
