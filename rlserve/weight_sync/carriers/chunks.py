"""Bytes in chunks over the Fetch RPC, each with its digest: they leave the host."""

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.base import NextChunk
from rlserve.weight_sync.manifest import chunk_digest


def chunk_of(index: int, data: bytes, *, last: bool = False) -> pb.Chunk:
    """A chunk with its digest."""
    return pb.Chunk(index=index, data=data, digest=chunk_digest(data), last=last)


async def received(policy: PolicyVersion, index: int, next_chunk: NextChunk) -> pb.Chunk:
    """The next chunk. Raises WeightsMismatch when it is damaged or not the one of this index."""
    chunk = await next_chunk()
    if chunk.index != index or chunk_digest(chunk.data) != chunk.digest:
        raise WeightsMismatch(f"version {policy.version}: chunk {index} is damaged or out of order")
    return chunk
