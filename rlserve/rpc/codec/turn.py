"""Turn on the wire: one answer of an environment in an episode."""

from rlserve.records import Turn
from rlserve.rpc.codec.check import count, join
from rlserve.rpc.codec.task import message_from_proto, message_to_proto
from rlserve.rpc.codec.verdict import verdict_from_proto, verdict_to_proto
from rlserve.v1 import environment_service_pb2 as pb

MAX_MESSAGES = 256  # as in bounds.BOUNDS


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
