"""Reads chat messages, tool calls and tools of a row, in the forms in which data sets have them."""

import json
from collections.abc import Mapping
from typing import Any

from rlserve.environments.files.fields import optional_text, sendable, shown, text_field
from rlserve.errors import InvalidRequest
from rlserve.records import Message, Tool

SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool", "user": "user"}
"""Roles of messages that are written ``{"from": ..., "value": ...}``."""


def prompt_field(row: Mapping[str, Any], name: str = "prompt") -> str | tuple[Message, ...]:
    """Return a prompt, which is text or messages. Raises InvalidRequest."""
    value = row.get(name)
    return messages_of(value, name) if isinstance(value, list) else text_field(row, name)


def messages_of(value: Any, name: str) -> tuple[Message, ...]:
    """A list of messages, or that list as JSON text. Raises InvalidRequest."""
    messages = _from_json(value)
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest(f"{name}: is {shown(messages)}; give text or a list of role and content objects")
    return tuple(_message(message, f"{name}[{index}]") for index, message in enumerate(messages))


def tools_of(value: Any, name: str) -> tuple[Tool, ...]:
    """Tools offered to the policy; none if null or empty. Raises InvalidRequest.

    A list, or that list as JSON text, of ``{"name": ..., "description": ..., "parameters": {JSON schema}}``, each also
    inside ``{"type": "function", "function": ...}``.
    """
    tools = _from_json(value) or []
    if not isinstance(tools, list):
        raise InvalidRequest(f"{name}: is {shown(value)}; give a list of tools, or another tools_key")
    return tuple(_tool(tool, f"{name}[{index}]") for index, tool in enumerate(tools))


def _tool(tool: Any, place: str) -> Tool:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f'{place}: is {shown(tool)}; give {{"name": ..., "parameters": {{...}}}}')
    parameters = _from_json(function.get("parameters")) or {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"{place}: has parameters {shown(parameters)}; give a JSON schema")
    return Tool(
        name=sendable(function["name"], place),
        description=sendable(str(function.get("description") or ""), place),
        parameters_json=sendable(json.dumps(parameters, ensure_ascii=False), place),
    )


def _message(message: Mapping[str, Any], place: str) -> Message:
    try:
        if "role" not in message and "from" in message:
            message = _from_sharegpt(message)
        role, calls = text_field(message, "role"), _tool_calls(message)
        content = {**message, "content": _content(message["content"])} if "content" in message else message
        # A tool may return nothing, and a turn of calls may have no text.
        may_be_empty = role == "tool" or calls
        return Message(
            role=role,
            content=(optional_text if may_be_empty else text_field)(content, "content"),
            tool_call_id=optional_text(message, "tool_call_id"),
            tool_calls=calls,
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{error} ({place})") from None


def _from_sharegpt(message: Mapping[str, Any]) -> Mapping[str, Any]:
    role = message["from"]
    if role not in SHAREGPT:
        raise InvalidRequest(f"from: is {shown(role)}; give one of {', '.join(SHAREGPT)}, or role and content")
    return {"role": SHAREGPT[role], "content": message.get("value")}


def _content(value: Any) -> Any:
    """The text of a content in parts, ``[{"type": "text", "text": ...}]``; any other value unchanged."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(f"content: has {shown(part)}; only parts of text can be sent")
    return "".join(part["text"] for part in value)


def _tool_calls(message: Mapping[str, Any]) -> tuple[str, ...]:
    """Calls as JSON text: ``{"id": ..., "function": {"name": ..., "arguments": {...}}}``, or just the function."""
    calls = _from_json(message.get("tool_calls")) or []
    if not isinstance(calls, list):
        raise InvalidRequest(f"tool_calls: is {shown(calls)}; give a list of calls")
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f'tool_calls: has {shown(call)}; give {{"name": ..., "arguments": {{...}}}}')
    return tuple(sendable(json.dumps(call, ensure_ascii=False), "tool_calls") for call in calls)


def _from_json(value: Any) -> Any:
    """The value of a text that is a JSON list or object: tables have no cells for these. Other values unchanged."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
