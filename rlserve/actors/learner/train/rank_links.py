"""Host collectives of the ranks: numbers and commands in host memory over gloo, apart from the gradients."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch lists it in no __all__

from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.rank_health import RankHealth, connect
from rlserve.actors.learner.train.tensor_wire import ROW, pack, unpack


class RankLinks:
    """One rank's links to the others; with a single rank nothing is sent.

    Example, rank 0 sends rank 1 its values and both add up a number::

        links.send_values(1, [token_ids, 0.5, None])    # rank 0
        links.receive_values(0)                         # rank 1: [tensor, 0.5, None]
        links.sum(torch.tensor(2.0))                    # both: tensor(4.)
    """

    def __init__(self, rank_info: RankInfo, *, timeout_seconds: float) -> None:
        self.rank_info = rank_info
        self._group: distributed.ProcessGroup | None = None
        self._health: RankHealth | None = None
        self._notes: TCPStore | None = None
        if rank_info.world_size > 1:
            self._health = RankHealth(rank_info)
            self._notes = connect(rank_info)
            # A group of its own: on GPUs the default one is nccl, which cannot send from host memory.
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))

    def attributed(self, doing: str) -> AbstractContextManager[None]:
        """Inside the block a failed collective raises Unavailable that names the failed rank."""
        return nullcontext() if self._health is None else self._health.attributed(doing)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over the ranks, written into ``values``."""
        if self._group is not None:
            distributed.all_reduce(values, group=self._group)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """Elementwise maximum over the ranks, written into ``values``."""
        if self._group is not None:
            distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self._group)
        return values

    def stack(self, own: Tensor) -> Tensor:
        """``[ranks, ...]``: every rank's tensor; all have one shape."""
        if self._group is None:
            return own[None]
        everyone = [torch.empty_like(own) for _ in range(self.rank_info.world_size)]
        distributed.all_gather(everyone, own, group=self._group)
        return torch.stack(everyone)

    def send(self, rank: int, tensor: Tensor) -> None:
        """Send one tensor, whose shape and type the receiver expects."""
        distributed.send(tensor, rank, group=self._group)

    def receive(self, rank: int, like: Tensor, *, timeout_seconds: float | None = None) -> Tensor:
        """Receive the next tensor from ``rank`` into ``like``."""
        # irecv, because torch's recv takes no timeout.
        work = distributed.irecv(like, rank, group=self._group)
        assert work is not None
        if timeout_seconds is None:
            work.wait()
        else:
            work.wait(timedelta(seconds=timeout_seconds))
        return like

    def send_values(self, rank: int, values: Sequence[Tensor | float | None]) -> None:
        """Send any tensors, numbers and Nones: sizes, then their schema, then their bytes."""
        schema, content = pack(values)
        # sizes first: the receiver must allocate before it receives
        self.send(rank, torch.tensor([len(schema), len(content)]))
        if len(schema):  # an empty tensor needs no message
            self.send(rank, schema)
        if len(content):
            self.send(rank, content)

    def receive_values(self, rank: int) -> list[Tensor | float | None]:
        """Receive what ``send_values`` sent."""
        rows, size = self.receive(rank, torch.zeros(2, dtype=torch.int64)).tolist()
        schema = torch.zeros(rows, ROW, dtype=torch.int64)
        content = torch.zeros(size, dtype=torch.uint8)
        if rows:
            self.receive(rank, schema)
        if size:
            self.receive(rank, content)
        return unpack(schema, content)

    def tell(self, name: str, text: str) -> None:
        """Leave a note for another rank, in place of an older one; from any thread, and no collective."""
        if self._notes is not None:
            self._notes.set(f"rlserve/note/{name}", text)

    def told(self, name: str) -> str:
        """The note of that name; empty when there is none yet."""
        key = f"rlserve/note/{name}"
        # check first: get would wait for it
        return self._notes.get(key).decode() if self._notes is not None and self._notes.check([key]) else ""

    def close(self) -> None:
        """Stop watching the other ranks."""
        if self._health is not None:
            self._health.close()
