"""Finished groups as frames: neighbours share one, within the learner's limits, and nothing changes its order."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from rlserve.actors.rollout.lease_frames import FinishedGroup, lease_return, together
from rlserve.records.lease import MAX_MORE_GROUPS
from rlserve.v1 import rollout_stream_service_pb2 as pb

WELCOME = pb.Welcome(max_group_bytes=1000, part_bytes=300)
SENT = st.lists(st.integers(0, 1000), max_size=40)  # bytes of a group; 0 stands for a returned lease


def queued(sizes: list[int]) -> list[pb.StreamRequest]:
    groups = [FinishedGroup(f"g{i}", "n", bytes([i % 256]) * size) for i, size in enumerate(sizes) if size]
    returned = [lease_return(f"g{i}", "n", "no server") for i, size in enumerate(sizes) if not size]
    frames = [*returned[:1], *chain.from_iterable(group.frames(WELCOME) for group in groups), *returned[1:]]
    return [pb.StreamRequest.FromString(frame.SerializeToString()) for frame in frames]


def contents(frames: list[pb.StreamRequest]) -> list[pb.GroupPart | pb.LeaseReturn]:
    found: list[pb.GroupPart | pb.LeaseReturn] = []
    for frame in frames:
        found += [frame.group, *frame.more_groups] if frame.HasField("group") else [frame.lease_return]
    return found


@given(SENT)
def test_frames_are_put_together_in_order_and_within_the_limit(sizes: list[int]) -> None:
    sent = list(together(queued(sizes), part_bytes=WELCOME.part_bytes))
    assert contents(sent) == contents(queued(sizes))
    for frame in sent:
        data = len(frame.group.data) + sum(len(part.data) for part in frame.more_groups)
        assert data <= WELCOME.part_bytes


def test_small_groups_share_frames_of_at_most_64() -> None:
    sent = list(together(queued([1] * 130), part_bytes=2**20))
    assert [1 + len(frame.more_groups) for frame in sent] == [1 + MAX_MORE_GROUPS, 1 + MAX_MORE_GROUPS, 2]
