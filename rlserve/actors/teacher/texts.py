"""Encodes text in a teacher's own tokens, with the byte at which each token ends."""

from dataclasses import dataclass

import numpy as np

from rlserve.actors.teacher.scoring import Query
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Task, Tool
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.prompts import encode_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TextQuery:
    """A prompt and a completion as text, for a teacher with another tokenizer than the policy."""

    prompt: str | tuple[Message, ...]
    completion: str
    ended: bool
    """Whether the completion's last token was the end of sequence. The teacher's own end token is then scored too."""
    tools: tuple[Tool, ...] = ()
    k: int = 0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """A text query in the teacher's tokens."""

    query: Query
    ends: tuple[int, ...]
    """Byte offset in the completion after each scored token."""


class TextEncoder:
    """Text queries to token queries for one teacher.

    Example::

        encoded = TextEncoder(tokens).encode(TextQuery(prompt="1+1=", completion="2", ended=True))
        scores = await batcher.score(encoded.query)
    """

    def __init__(self, tokens: ModelTokens) -> None:
        self._tokens = tokens
        self.text = tokens.as_text()

    def encode(self, text: TextQuery) -> EncodedText:
        """The query in tokens. Raises InvalidRequest for a text without tokens, or one the tokenizer cannot encode."""
        # encode_prompt takes a task, and reads its prompt and tools alone.
        task = Task(
            environment="",
            split="",
            index=0,
            task_id="the request",
            prompt=text.prompt,
            tools=text.tools,
            verifier="",
            payload=b"",
        )
        # No limit here: the service bounds prompt and completion together.
        prompt = encode_prompt(self._tokens.tokenizer, task, max_tokens=2**31).token_ids
        completion, ends = self.text.write(text.completion)
        end = next(iter(self._tokens.ends_of(task)), None)
        if text.ended and end is not None:
            completion.append(end)
            # It has no bytes: it ends where the text before it ends.
            ends.append(ends[-1] if ends else 0)
        if not completion:
            raise InvalidRequest("completion_text: is empty, and completion_ended is false; give text")
        query = Query(
            token_ids=np.array([*prompt, *completion], dtype=np.int64),
            first=len(prompt),
            count=len(completion),
            k=text.k,
            temperature=text.temperature,
        )
        return EncodedText(query=query, ends=tuple(ends))
