"""A model's tokens: its tokenizer, the tokens that end a completion, and the text for verifiers and environments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rlserve.records import Message, Task
from rlserve.tokens.chat import turn_end
from rlserve.tokens.end_tokens import end_token_ids
from rlserve.tokens.token_text import TokenText
from rlserve.tokens.tokenizer import Tokenizer, added_in_front, decode_text, load_tokenizer


@dataclass(frozen=True, slots=True)
class ModelTokens:
    """A tokenizer with its end tokens. Made by ``of`` or ``load``.

    Example::

        tokens = ModelTokens.load("path/to/checkpoint")
        text = tokens.text(sample.token_ids.tolist())   # without end of sequence and padding
    """

    tokenizer: Tokenizer
    end_ids: tuple[int, ...]
    """Tokens that end a sequence, the tokenizer's first."""
    turn_end: int | None
    """Token that ends an assistant's turn in the chat template."""
    unwritten: frozenset[int]
    """Tokens left out of a completion's text: ends and padding."""
    size: int
    """The tokenizer's ids lie below. A model with a padded embedding may sample higher ids, which mean nothing."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, model_path: str = "") -> Self:
        """The tokens of the model at ``model_path``, a directory or hub name. Raises ConfigError."""
        end_ids, turn = end_token_ids(tokenizer, model_path), turn_end(tokenizer)
        unwritten = frozenset(t for t in (*end_ids, turn, tokenizer.pad_token_id) if t is not None)
        # The largest id, not the number of entries: a vocabulary may have gaps.
        return cls(tokenizer, end_ids, turn, unwritten, max(tokenizer.get_vocab().values()) + 1)

    @classmethod
    def load(cls, model_path: str, template_arguments: Mapping[str, Any] | None = None) -> Self:
        """The tokens of the model at ``model_path``, loading its tokenizer. Raises ConfigError."""
        return cls.of(load_tokenizer(model_path, template_arguments), model_path)

    def ends_of(self, task: Task) -> tuple[int, ...]:
        """Tokens that end a completion of ``task``, the usual one first."""
        turn = [self.turn_end] if self.turn_end is not None and is_chat(task.prompt) else []
        return tuple(dict.fromkeys([*turn, *self.end_ids]))

    def text(self, ids: Sequence[int]) -> str:
        """Sampled ids as text for verifiers and environments: special tokens are kept, ends and padding left out."""
        return decode_text(self.tokenizer, [t for t in ids if t < self.size], unwritten=self.unwritten)

    @property
    def usual_end(self) -> int | None:
        """The usual end of a completion: the end of an assistant's turn if there is a chat template."""
        return next((end for end in (self.turn_end, *self.end_ids) if end is not None), None)

    def as_text(self) -> TokenText:
        """Its tokens as pieces of text, to be aligned with another tokenizer's."""
        return TokenText(self.tokenizer, silent=self.unwritten, end_id=self.usual_end)

    def given(self, task: Task, text: str) -> list[int]:
        """A completion that came with ``task``, as the policy would have sampled it."""
        return given_tokens(self.tokenizer, text, ends=self.ends_of(task), unwritten=self.unwritten)


def is_chat(prompt: object) -> bool:
    """Whether a prompt is a conversation."""
    return isinstance(prompt, tuple) and bool(prompt) and isinstance(prompt[0], Message)


def given_tokens(
    tokenizer: Tokenizer, text: str, *, ends: Sequence[int] | None = None, unwritten: frozenset[int] = frozenset()
) -> list[int]:
    """The tokens of ``text`` and one end: its own if it has one, else the first of ``ends``.

    ``ends`` is None for the tokenizer's end of sequence. What the tokenizer adds in front of every text (BOS) is
    removed: the prompt has it already.
    """
    if ends is None:
        ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    start = added_in_front(tokenizer)
    if start and ids[: len(start)] == start:
        ids = ids[len(start) :]
    end = list(ends[:1])
    # Of several ends in a row the first is kept: sampling would have stopped at it.
    while ids and ids[-1] in {*ends, *unwritten}:
        last = ids.pop()
        end = [last] if last in ends else end
    return [*ids, *end]
