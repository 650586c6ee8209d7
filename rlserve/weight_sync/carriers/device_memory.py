"""The learner's copy in the memory of a GPU, for engines that compute on the same GPU: nothing crosses the bus.

On the wire: the worker gives the name of its device in ``carriers``; the header gives ``device_memory``, and
``shared_path``, whose file holds the same bytes. The engine keeps a lock on that file while it reads the memory, which
the learner then leaves alone; an engine that cannot open the memory reads the file.
"""

from pathlib import Path

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.base import Carrier, NextChunk, Offer
from rlserve.weight_sync.carriers.shared_file import check_opens
from rlserve.weight_sync.device_memory import DeviceMemory
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging

NAME = "device_memory"


class DeviceMemorySender:
    """Offers the publisher's memory; a first request makes it have one from the next version on."""

    def __init__(self, publisher: Publisher, chunk_bytes: int) -> None:
        """Sends no chunks."""
        self._publisher = publisher

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        device = request.carriers.get(NAME, "")
        memory = self._publisher.memory_of(published, device) if device else None
        if memory is None:
            return None
        header = pb.FetchHeader(
            version=published.policy.version,
            encoding=pb.ENCODING_FULL,
            total_bytes=published.policy.total_bytes,
            shared_path=str(published.path),
            device_memory=pb.DeviceMemory(device=memory.device, handle=memory.handle, size_bytes=memory.size),
        )
        return Offer(header)


class DeviceMemoryReceiver:
    """Hands memory and file to the engine, which digests the memory before it serves it."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        if self._staging.device:
            request.carriers[NAME] = self._staging.device

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        found = header.device_memory
        if found.device != self._staging.device or found.size_bytes != policy.total_bytes:
            raise WeightsMismatch(
                f"version {policy.version}: memory of {found.size_bytes} bytes on {found.device!r} is offered, where "
                f"{policy.total_bytes} on {self._staging.device!r} are wanted"
            )
        check_opens(policy, header.shared_path)
        path = Path(header.shared_path)
        self._staging.note(path, DeviceMemory(found.device, found.handle, found.size_bytes))
        return path


DEVICE_MEMORY = Carrier(NAME, DeviceMemorySender, DeviceMemoryReceiver)
