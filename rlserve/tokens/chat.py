"""Renders chat messages as text with a model's chat template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlserve.errors import TaskRefused
from rlserve.records import Message, Task, Tool
from rlserve.tokens.tokenizer import Tokenizer

MARK = "policy-turn"
"""Stands for the assistant's text in a probe of the template. Any plain word that a template keeps will do."""


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_messages(task: Task) -> list[Message]:
    """The messages of a task whose prompt is a conversation."""
    return [message for message in task.prompt if isinstance(message, Message)]


def plain_chat(messages: Sequence[Message]) -> str:
    """Messages as a plain transcript, up to the assistant's next turn."""
    return "".join(f"{m.role}: {m.content}\n" for m in messages) + "assistant:"


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Tool] = (), *, next_turn: bool = True
) -> str:
    """Messages as the chat template writes them, up to the assistant's next turn unless ``next_turn`` is False.

    Arguments of tool calls are passed as objects, and as JSON text to a template that fails on objects: both forms are
    in use among models. Raises TaskRefused with the template's own message.
    """
    options = _options(tools) | {"add_generation_prompt": next_turn}
    forms = [_as_dicts(messages)]
    if any(message.tool_calls for message in messages):
        forms.append(_as_dicts(messages, spell_arguments=True))
    refusals = []
    for form in forms:
        try:
            return str(tokenizer.apply_chat_template(form, tokenize=False, **options))
        except Exception as error:  # a template is the model's code and may raise anything
            refusals.append(error)
    raise TaskRefused(
        f"chat_template: refuses these {len(messages)} messages: {type(refusals[0]).__name__}: {refusals[0]}; change "
        "the messages, or take a model whose template accepts them",
        field="task.prompt",
        reason="template_failed",
    ) from refusals[0]


def turn_end(tokenizer: Tokenizer) -> int | None:
    """The token that the chat template writes after an assistant's turn; None when it writes plain text or nothing."""
    if not has_template(tokenizer):
        return None
    turns = [Message(role="user", content="?"), Message(role="assistant", content=MARK)]
    try:
        # A template may write a blank or a line break before its end token.
        after = render(tokenizer, turns, next_turn=False).rpartition(MARK)[2].lstrip()
    except TaskRefused:
        return None
    first, *_ = [*tokenizer.encode(after, add_special_tokens=False), None]
    return first if first in tokenizer.get_added_vocab().values() else None


def _options(tools: Sequence[Tool]) -> dict[str, Any]:
    described = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": json.loads(tool.parameters_json),
            },
        }
        for tool in tools
    ]
    return {"tools": described} if described else {}


def _as_dicts(messages: Sequence[Message], *, spell_arguments: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "role": message.role,
            "content": message.content,
            **({"tool_call_id": message.tool_call_id} if message.tool_call_id else {}),
            **(
                {"tool_calls": [_call(call, spell_arguments=spell_arguments) for call in message.tool_calls]}
                if message.tool_calls
                else {}
            ),
        }
        for message in messages
    ]


def _call(written: str, *, spell_arguments: bool) -> Mapping[str, Any]:
    """A tool call for a template: ``{"type": "function", "id": ..., "function": {"name": ..., "arguments": {...}}}``.

    ``written`` is that as JSON text, or its ``function`` alone.
    """
    try:
        call = json.loads(written)
        function = dict(call.get("function", call))
        arguments = function.get("arguments", {})
        arguments = json.loads(arguments) if isinstance(arguments, str) and arguments.strip() else arguments or {}
        name = function["name"]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise TaskRefused(
            f"tool_calls: {written[:80]!r} is no call ({type(error).__name__}: {error}); give JSON like "
            '{"name": "add", "arguments": {"a": 1}}',
            field="task.prompt.tool_calls",
            reason="task_invalid",
        ) from None
    known = {"name": name, "arguments": json.dumps(arguments) if spell_arguments else arguments}
    return {"type": "function", **({"id": call["id"]} if call.get("id") else {}), "function": known}
