"""Frames that a worker sends about one lease: a finished group in parts, or the lease returned with a reason."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rlserve.records.lease import MAX_MORE_GROUPS, MAX_REASON_CHARACTERS
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


def together(frames: Iterable[pb.StreamRequest], *, part_bytes: int) -> Iterator[pb.StreamRequest]:
    """The same frames in their order, with neighbours that bring groups put into one, up to the learner's limits."""
    last: pb.StreamRequest | None = None
    size = 0
    for frame in frames:
        # With ids and lengths, a little more than the data that the limit is about.
        added = frame.group.ByteSize() if frame.HasField("group") else 0
        if last is not None and added and size + added <= part_bytes and len(last.more_groups) < MAX_MORE_GROUPS:
            last.more_groups.append(frame.group)
            size += added
            continue
        if last is not None:
            yield last
            last = None
        if added:
            last, size = frame, added
        else:
            yield frame
    if last is not None:
        yield last


def lease_return(group_id: str, nonce: str, reason: str, drop: str = "") -> pb.StreamRequest:
    """The frame that returns a lease; ``drop`` is the reason why no worker can ever finish it."""
    text = wire_text(reason)[:MAX_REASON_CHARACTERS]
    return pb.StreamRequest(lease_return=pb.LeaseReturn(group_id=group_id, nonce=nonce, reason=text, drop=drop))


def described(error: BaseException, stage: str) -> str:
    """The error's class, text and place in one line. Some errors have no text."""
    text = str(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what} (at {stage})" if stage else what
