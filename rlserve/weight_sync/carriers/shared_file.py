"""The learner's own file, for workers on the learner's host: nothing is copied.

On the wire: the worker gives its ``host_id``, and the header gives ``shared_path``. A caller that cannot use the file
sets ``by_stream``, or leaves ``host_id`` out.
"""

import os
import stat
from pathlib import Path

from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.base import Carrier, NextChunk, Offer
from rlserve.weight_sync.host import host_id
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging


class SharedFileSender:
    """Offers the publisher's file to callers on this host."""

    def __init__(self, publisher: Publisher, chunk_bytes: int) -> None:
        """Needs neither: the version that is offered knows its own file."""

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        if request.host_id != host_id() or request.by_stream:
            return None
        return Offer(
            pb.FetchHeader(
                version=published.policy.version,
                encoding=pb.ENCODING_FULL,
                total_bytes=published.policy.total_bytes,
                shared_path=str(published.path),
            )
        )


class SharedFileReceiver:
    """Hands the learner's file to the engine, which maps and digests it."""

    def __init__(self, staging: Staging) -> None:
        """Needs no place of its own."""

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        request.host_id = host_id()

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        check_opens(policy, header.shared_path)
        return Path(header.shared_path)


def check_opens(policy: PolicyVersion, path: str) -> None:
    """Raises WeightsMismatch unless the file can be opened from here and has the version's size.

    Equal hosts do not mean one file system: containers share a kernel, and other users share a machine. The engine
    digests each tensor when it stages the file; a second pass here would only cost.
    """
    try:
        # O_NOFOLLOW and the regular-file check below: the path came over the wire. O_NONBLOCK: it may be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise WeightsMismatch(f"version {policy.version}: the learner's file cannot be opened here ({error})") from None
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size != policy.total_bytes:
        raise WeightsMismatch(
            f"version {policy.version}: the learner's file {path} is not whole ({found.st_size} of "
            f"{policy.total_bytes} bytes)"
        )


SHARED_FILE = Carrier("shared_file", SharedFileSender, SharedFileReceiver)
