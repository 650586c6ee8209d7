"""Turns of an episode on the wire: the policy's tool calls, the environment's answer."""

from rlserve.records import ToolCall, Turn
from rlserve.rpc.codec.check import count, join, text, wire_text
from rlserve.rpc.codec.task import json_text, message_from_proto, message_to_proto
from rlserve.rpc.codec.verdict import verdict_from_proto, verdict_to_proto
from rlserve.v1 import environment_service_pb2 as pb

MAX_MESSAGES = 256  # as in bounds.BOUNDS


def tool_call_to_proto(call: ToolCall) -> pb.ToolCall:
    """Encode a call of a tool."""
    return pb.ToolCall(id=call.id, name=call.name, arguments_json=wire_text(call.arguments_json))


def tool_call_from_proto(message: pb.ToolCall, at: str = "") -> ToolCall:
    """Decode a call of a tool, checking every field. Raises InvalidRequest."""
    return ToolCall(
        id=text(message.id, at, "id"),
        name=text(message.name, at, "name"),
        arguments_json=json_text(message.arguments_json, at, "arguments_json"),
    )


def turn_to_proto(turn: Turn) -> pb.EpisodeResponse:
    """Encode a turn."""
    return pb.EpisodeResponse(
        messages=[message_to_proto(message) for message in turn.messages],
        done=turn.done,
        verdict=None if turn.verdict is None else verdict_to_proto(turn.verdict),
    )


def turn_from_proto(message: pb.EpisodeResponse, at: str = "") -> Turn:
    """Decode a turn, checking every field. Raises InvalidRequest."""
    count(message.messages, at, "messages", high=MAX_MESSAGES)
    return Turn(
        messages=tuple(message_from_proto(m, join(at, f"messages[{i}]")) for i, m in enumerate(message.messages)),
        done=message.done,
        verdict=verdict_from_proto(message.verdict, join(at, "verdict")) if message.HasField("verdict") else None,
    )
