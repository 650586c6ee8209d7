"""Carriers: the ways in which the bytes of a version travel from the learner to a worker.

* ``base``           what a carrier is: a sender at the learner, a receiver at the worker
* ``device_memory``  the learner's copy on the GPU on which the engine computes
* ``shared_file``    the learner's own file, opened by a worker on the same host
* ``collective``     one broadcast to all workers of a fast network, beyond the learner's host
* ``broadcast_rank`` a rank of such a broadcast, in a process of its own
* ``host_copies``    one fetch for all workers of a host
* ``chunks``         bytes over the RPC itself, each chunk with its digest
* ``delta_stream``   in chunks, the difference to the version that the worker holds
* ``full_stream``    in chunks, all bytes

The worker names what it can use, the learner takes the first carrier of its list that can serve this worker, and a
worker that refuses what came asks again without that carrier and those before it.

To add one: a file here with a ``Carrier``, its name in ``CARRIERS``, cheapest first and before the last, to which all
fall back, and a ``Case`` in ``CASES`` of ``tests/contract/test_weight_carriers.py``, which holds every carrier to the
same promises. See docs/extending.md.
"""

from collections.abc import Mapping, Sequence

from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.base import Carrier, Offer, Sender
from rlserve.weight_sync.carriers.collective import collective
from rlserve.weight_sync.carriers.delta_stream import DELTA_STREAM
from rlserve.weight_sync.carriers.device_memory import DEVICE_MEMORY
from rlserve.weight_sync.carriers.full_stream import FULL_STREAM
from rlserve.weight_sync.carriers.shared_file import SHARED_FILE
from rlserve.weight_sync.publisher import Published

CARRIERS: Sequence[Carrier] = (DEVICE_MEMORY, SHARED_FILE, DELTA_STREAM, FULL_STREAM)
"""Cheapest first. The last one serves every worker and checks every digest: it is what all others fall back to."""


def carriers(broadcast_address: str = "") -> Sequence[Carrier]:
    """``CARRIERS``, and the broadcast where learner and workers meet at an address (``sync.broadcast_address``)."""
    if not broadcast_address:
        return CARRIERS
    before = CARRIERS.index(DELTA_STREAM)
    return (*CARRIERS[:before], collective(broadcast_address), *CARRIERS[before:])


async def first_offer(senders: Mapping[str, Sender], published: Published, request: pb.FetchRequest) -> Offer:
    """The offer of the first sender that can serve the caller, its header marked with the carrier's name."""
    for name, sender in senders.items():
        offer = await sender.offer(published, request)
        if offer is not None:
            offer.header.carrier = name
            return offer
    raise LookupError(f"carriers: none of {', '.join(senders)} serves every caller; end the list with one that does")


__all__ = [
    "CARRIERS",
    "DELTA_STREAM",
    "DEVICE_MEMORY",
    "FULL_STREAM",
    "SHARED_FILE",
    "Carrier",
    "Offer",
    "carriers",
    "collective",
    "first_offer",
]
