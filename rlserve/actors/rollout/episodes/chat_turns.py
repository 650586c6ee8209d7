"""The tokens between two turns of the policy: the environment's messages as the chat template writes them.

Only this text is encoded; sampled tokens are never encoded again. The template renders the conversation with a mark in
place of the policy's last turn, and the text after the mark is what follows that turn, even when the template rewrites
earlier turns (as templates that drop old reasoning do).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from rlserve.errors import TaskRefused
from rlserve.records import FinishReason, Message, Task, ToolCall, Turn
from rlserve.tokens.chat import chat_messages, has_template, plain_chat, render
from rlserve.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class PolicyTurn:
    """What the policy wrote in one turn."""

    text: str
    finish_reason: FinishReason
    """Why the policy stopped: LENGTH when a limit cut it."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls in ``text``; none when they are malformed."""


@dataclass(frozen=True, slots=True)
class TurnPair:
    """One turn of the policy and the environment's answer to it."""

    said: PolicyTurn
    turn: Turn


def continuation(
    tokenizer: Tokenizer, task: Task, turn_pairs: Sequence[TurnPair], *, last_token: int | None
) -> list[int]:
    """Token ids that follow the policy's last turn, up to its next one.

    After a plain prompt (text or token ids) they are the messages' plain text. After chat messages they are the
    template's end of the policy's turn, the messages, and the head of the next turn; ``last_token``, the last one
    sampled, is left out when it is that end already. Raises TaskRefused when the template refuses the messages or
    leaves the policy's turn out.
    """
    answer = turn_pairs[-1].turn.messages
    if isinstance(task.prompt, str) or not isinstance(task.prompt[0], Message):
        return _encode(tokenizer, "".join(message.content for message in answer))
    if not has_template(tokenizer):
        return _encode(tokenizer, "\n" + plain_chat(answer))
    ids = _encode(tokenizer, _after_last_turn(tokenizer, task, turn_pairs))
    return ids[1:] if ids and ids[0] == last_token else ids


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    # No BOS: the text continues a sequence.
    return list(tokenizer.encode(text, add_special_tokens=False))


def _after_last_turn(tokenizer: Tokenizer, task: Task, turn_pairs: Sequence[TurnPair]) -> str:
    try:
        return _after(tokenizer, task, turn_pairs, calls=True)
    except TaskRefused:  # a template that knows no tool calls
        return _after(tokenizer, task, turn_pairs, calls=False)


def _after(tokenizer: Tokenizer, task: Task, turn_pairs: Sequence[TurnPair], *, calls: bool) -> str:
    """The text after the policy's last turn; with ``calls``, earlier turns that call tools are rendered as calls."""
    *earlier, last = turn_pairs
    conversation = list(chat_messages(task))
    for turn_pair in earlier:
        conversation += [_said(turn_pair.said, calls=calls), *turn_pair.turn.messages]
    mark = _mark([*conversation, *last.turn.messages])
    conversation += [Message(role="assistant", content=mark), *last.turn.messages]
    _, found, after = render(tokenizer, conversation, task.tools).rpartition(mark)
    if not found:
        raise TaskRefused(
            "chat_template: leaves out the assistant's last turn; take one that appends turns",
            field="task.prompt",
            reason="template_failed",
        )
    return after


def _said(said: PolicyTurn, *, calls: bool) -> Message:
    if not (calls and said.tool_calls):
        return Message(role="assistant", content=said.text)
    # Templates that count turns, as Mistral's do, take no tool message after a turn without calls.
    written = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in said.tool_calls]
    return Message(role="assistant", content="", tool_calls=tuple(map(json.dumps, written)))


def _mark(messages: Sequence[Message]) -> str:
    """A text that occurs in no message."""
    marks = (f"policy-turn-{number}" for number in count())
    return next(mark for mark in marks if not any(mark in message.content for message in messages))
