"""One answer of an environment on the wire."""

from rlserve.records import Turn
from rlserve.rpc.codec.check import count, join
from rlserve.rpc.codec.task import message_from_proto, message_to_proto
from rlserve.rpc.codec.verdict import verdict_from_proto, verdict_to_proto
from rlserve.v1 import environment_service_pb2 as pb

MAX_MESSAGES = 256


def turn_to_proto(turn: Turn) -> pb.EpisodeResponse:
    """A turn as its message."""
    return pb.EpisodeResponse(
        messages=[message_to_proto(message) for message in turn.messages],
        done=turn.done,
        verdict=None if turn.verdict is None else verdict_to_proto(turn.verdict),
    )


def turn_from_proto(message: pb.EpisodeResponse, at: str = "") -> Turn:
    """A turn, every field checked. Raises InvalidRequest."""
    count(message.messages, at, "messages", high=MAX_MESSAGES)
    return Turn(
        messages=tuple(message_from_proto(m, join(at, f"messages[{i}]")) for i, m in enumerate(message.messages)),
        done=message.done,
        verdict=verdict_from_proto(message.verdict, join(at, "verdict")) if message.HasField("verdict") else None,
    )
