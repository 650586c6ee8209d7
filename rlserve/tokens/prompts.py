"""Encodes a task's prompt as tokens and text. A prompt is never cut; one that cannot be encoded is refused."""

from dataclasses import dataclass

from rlserve.errors import RlserveError, TaskRefused
from rlserve.records import Task
from rlserve.tokens.chat import chat_messages, has_template, plain_chat, render
from rlserve.tokens.tokenizer import Tokenizer, decode_text, encode_text


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens before a completion, and their text."""

    token_ids: list[int]
    text: str
    """As the chat template wrote it: what verifiers read."""


def encode_prompt(tokenizer: Tokenizer, task: Task, *, max_tokens: int) -> Prompt:
    """The prompt of a task.

    Chat messages are rendered by the tokenizer's chat template, or as a plain transcript if it has none. Raises
    TaskRefused for a prompt of more than ``max_tokens``, for an empty one, and for one that the chat template or the
    tokenizer refuses.
    """
    try:
        prompt = _prompt(tokenizer, task)
    except RlserveError:
        raise
    except Exception as error:  # tokenizers raise all kinds of errors
        raise TaskRefused(
            f"task.prompt: of {task.task_id!r} cannot be tokenised: {type(error).__name__}: {error}",
            field="task.prompt",
            reason="template_failed",
        ) from error
    ids = prompt.token_ids
    if not ids:
        raise TaskRefused(
            f"task.prompt: of {task.task_id!r} is empty; give at least one token",
            field="task.prompt",
            reason="task_invalid",
        )
    if len(ids) > max_tokens:
        raise TaskRefused(
            f"task.prompt: of {task.task_id!r} has {len(ids)} tokens, but there is room for {max(max_tokens, 0)} "
            "(model.max_length less max_new_tokens); raise model.max_length, lower max_new_tokens, or shorten the "
            "prompt",
            field="task.prompt",
            reason="prompt_too_long",
        )
    return prompt


def num_characters(task: Task) -> int:
    """Length of the prompt's text in characters, before any template."""
    if isinstance(task.prompt, str):
        return len(task.prompt)
    return sum(len(message.content) + sum(map(len, message.tool_calls)) for message in chat_messages(task))


def _prompt(tokenizer: Tokenizer, task: Task) -> Prompt:
    prompt = task.prompt
    if isinstance(prompt, str):
        return Prompt(encode_text(tokenizer, prompt), prompt)
    messages = chat_messages(task)
    if not messages:
        ids = [int(str(token)) for token in prompt]
        return Prompt(ids, decode_text(tokenizer, ids))
    if has_template(tokenizer):
        text = render(tokenizer, messages, task.tools)
        # A template writes BOS itself where its model wants one.
        return Prompt(list(tokenizer.encode(text, add_special_tokens=False)), text)
    text = plain_chat(messages)
    return Prompt(encode_text(tokenizer, text), text)
