"""Frames that a worker sends about one lease: a finished group in parts, or the lease returned with a reason."""

from collections.abc import Iterator
from dataclasses import dataclass

from rlserve.records.lease import MAX_REASON_CHARACTERS
from rlserve.rpc.codec.check import wire_text
from rlserve.v1 import rollout_stream_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class FinishedGroup:
    """A group that the learner has not acknowledged."""

    group_id: str
    nonce: str
    data: bytes

    def frames(self, welcome: pb.Welcome) -> Iterator[pb.StreamRequest]:
        """The group in parts, or a returned lease when the group is larger than the learner accepts."""
        size = len(self.data)
        # By the welcome of this stream: a restarted learner may have another limit.
        if size > welcome.max_group_bytes:
            reason = (
                f"LimitExceeded: the group has {size} bytes, more than learner.max_group_bytes = "
                f"{welcome.max_group_bytes}; raise that, or sample fewer or shorter completions"
            )
            yield lease_return(self.group_id, self.nonce, reason)
            return
        for start in range(0, size, welcome.part_bytes):
            data = self.data[start : start + welcome.part_bytes]
            part = pb.GroupPart(group_id=self.group_id, nonce=self.nonce, total_bytes=size, data=data)
            yield pb.StreamRequest(group=part)


def lease_return(group_id: str, nonce: str, reason: str, drop: str = "") -> pb.StreamRequest:
    """The frame that returns a lease; ``drop`` is the reason why no worker can ever finish it."""
    text = wire_text(reason)[:MAX_REASON_CHARACTERS]
    return pb.StreamRequest(lease_return=pb.LeaseReturn(group_id=group_id, nonce=nonce, reason=text, drop=drop))


def described(error: BaseException, stage: str) -> str:
    """The error's class, text and place in one line. Some errors have no text."""
    text = str(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what} (at {stage})" if stage else what
