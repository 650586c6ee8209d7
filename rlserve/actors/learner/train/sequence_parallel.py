"""Rows of tokens that several ranks share, for sequences longer than one GPU holds (Ulysses, arXiv:2309.14509).

Each rank of a group runs the model on its stretch of every row. Only attention needs whole rows: for it the ranks
exchange stretches of all heads for whole rows of some heads, and back. Hidden states are joined before the head, so
that every rank of the group computes the same loss of the same rows.

Shape letters: B rows, T tokens, H size of a hidden state.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed

from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import ConfigError
from rlserve.models.attention import SHARED_ROWS, VARLEN


class SequenceParallel:
    """One rank's place in its group.

    Example, two ranks and a row of 5 tokens::

        parallel = SequenceParallel(rank_info, size=2)     # on all ranks
        ids, positions = parallel.padded(ids, positions)   # 6 tokens
        parallel.own(ids)                                  # rank 0: the first three
        parallel.joined(states)                            # [1, 6, H] of the states of both
    """

    def __init__(self, rank_info: RankInfo, *, size: int) -> None:
        """Neighbouring ranks are a group: they are most often on one host."""
        self.size = size
        self.number = rank_info.rank % size
        for first in range(0, rank_info.world_size, size):
            # Every rank takes part in making every group.
            group = distributed.new_group(list(range(first, first + size)))
            if first <= rank_info.rank < first + size:
                self.group: Any = group

    def width(self, tokens: int) -> int:
        """Tokens of a row after padding."""
        return tokens + -tokens % self.size

    def padded(self, token_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, T]`` both, with T rounded up to a multiple of the group's ranks; no token attends to the padding."""
        missing = self.width(token_ids.shape[1]) - token_ids.shape[1]
        after = position_ids[:, -1:] + 1 + torch.arange(missing)
        return torch.nn.functional.pad(token_ids, (0, missing)), torch.cat([position_ids, after], dim=1)

    def own(self, values: Tensor) -> Tensor:
        """This rank's stretch of ``[B, T]``."""
        return values.chunk(self.size, dim=1)[self.number].contiguous()

    def joined(self, states: Tensor) -> Tensor:
        """``[B, T, H]`` of the stretches ``[B, T / ranks, H]`` of all ranks."""
        whole: Tensor = _Join.apply(states, self)  # type: ignore[no-untyped-call]  # torch's own method
        return whole

    def register(self) -> None:
        """Make ``SHARED_ROWS`` known to transformers: the attention that is registered as ``VARLEN``, on whole rows."""
        from transformers import AttentionInterface

        AttentionInterface.register(SHARED_ROWS, _exchanging(AttentionInterface()[VARLEN], self.group))


def sequence_parallel(config: LearnerConfig, rank_info: RankInfo) -> SequenceParallel | None:
    """As the configuration has it; None where each rank has rows of its own. Called on every rank."""
    size = config.sequence_parallel
    return SequenceParallel(rank_info, size=size) if size > 1 else None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, states: Tensor, parallel: SequenceParallel) -> Tensor:
        context.parallel = parallel
        parts = [torch.empty_like(states) for _ in range(parallel.size)]
        distributed.all_gather(parts, states.contiguous(), group=parallel.group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor, None]:
        parallel: SequenceParallel = context.parallel
        # The sum over the ranks of the group, which all computed the same gradient: nothing need be sent.
        return grads[0].chunk(parallel.size, dim=1)[parallel.number] * parallel.size, None


def _exchanging(attention: Callable[..., Any], group: Any) -> Callable[..., Any]:
    # Not at the top: there it would come before ``import_deepspeed`` has prepared the process.
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    made: dict[tuple[int, ...], Any] = {}

    def run(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any) -> Any:
        (rows, heads, _, size), key_heads = query.shape, key.shape[1]
        shape = (rows, heads, key_heads, size)
        if shape not in made:
            try:
                made[shape] = UlyssesSPAttentionHF(
                    attention,
                    batch_size=rows,
                    attn_head_count=heads,
                    attn_head_size=size,
                    kv_head_count=key_heads,
                    num_hidden_layers=1,  # for its debugging alone
                    process_group=group,
                    seq_length_is_variable=True,
                )
            except ValueError as error:
                raise ConfigError(f"learner.sequence_parallel: does not fit the model: {error}") from error
        return made[shape](module, query, key, value, mask, **given)

    return run
