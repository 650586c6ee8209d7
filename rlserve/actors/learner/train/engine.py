"""One rank's policy under DeepSpeed: score tokens, take optimizer steps, copy weights out.

Micro-batches and ranks compute shares that add up to the loss of the optimizer batch, so gradients are summed, never
averaged: each loss is multiplied by the number of ranks, by which data parallelism divides the gradient.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.actors.learner.train.deepspeed_setup import (
    RankInfo,
    bound_collectives,
    import_deepspeed,
    init_process_group,
    torch_threads,
)
from rlserve.actors.learner.train.gather import gather
from rlserve.actors.learner.train.rank_links import RankLinks
from rlserve.actors.learner.train.saving import optimizer_state
from rlserve.actors.learner.train.saving.model_files import read_companions
from rlserve.actors.learner.train.saving.optimizer_state import Read
from rlserve.actors.learner.train.scorer import DTYPES, Scorer, check_packing, load_policy
from rlserve.actors.learner.train.sequence_parallel import sequence_parallel
from rlserve.actors.learner.train.zero import training_engine
from rlserve.algorithms import metrics
from rlserve.algorithms.batch import LossOutput, Metric, PolicyOutputs, TokenBatch
from rlserve.config.tables.learner import LearnerConfig
from rlserve.cpu_kernels import set_up_process
from rlserve.errors import LimitExceeded
from rlserve.memory.formulas import effective_stage, learner_rank
from rlserve.memory.shape import ModelShape
from rlserve.models import throughput
from rlserve.models.adapter_files import weights_digest
from rlserve.models.experts import ExpertLoad, busiest
from rlserve.models.scored_model import ScoredModel

logger = logging.getLogger(__name__)

LossFunction = Callable[[PolicyOutputs, TokenBatch], LossOutput]
"""A micro-batch's share of the loss; denominators of the whole optimizer batch are bound already."""

CPU_WARM_UP_TOKENS = 256
"""Enough for kernels and memory pools to be made; a full micro-batch can take minutes on a CPU."""
TOKENS, FLOPS, PEAK_BYTES = " tokens", " flops", " peak bytes"
"""Sums and maxima that travel with the metrics, under names that no algorithm uses."""
ENTROPY = frozenset({"entropy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step did; the same on every rank."""

    loss: float
    """Loss of the optimizer batch: the sum of all shares."""
    metrics: dict[str, float]
    """What the algorithm measured, merged over micro-batches and ranks."""
    grad_norm: float
    """Global, before clipping; not finite when the step was skipped."""
    skipped: bool
    """Loss or gradient was not finite, so weights and optimizer are unchanged. Of several updates: any was skipped."""
    updates: int
    """Updates made; 0 when all were skipped."""
    skipped_steps: int
    """Steps skipped since the engine started."""
    seconds: float
    tokens: float = 0.0
    """Tokens that the model saw, prompts included and padding not, over all ranks."""
    flops: float = 0.0
    """What training on them takes (``rlserve.models.throughput``)."""
    peak_flops: float = 0.0
    """FLOP/s that a rank's card could do; 0 where that is not known."""
    ranks: int = 1
    peak_bytes: float = 0.0
    """Most memory that a rank held at once since its start."""
    expert_load: float = 0.0
    """Tokens of the busiest expert over those of a mean one, over all ranks; 0 without experts."""
    planned_bytes: float = 0.0
    """That peak by the memory plan; 0 for a model of another form than it knows."""


class LearnerEngine:
    """One rank's share of the policy and its optimizer. Every rank calls the same methods in the same order.

    Example, one step and the new weights, the same lines on every rank::

        engine = LearnerEngine("start/", config.learner, seed=0, rank_info=RankInfo.from_environment(os.environ))
        report = engine.step(micro_batches, loss=loss, lr=1e-5)
        for name, tensor in engine.weights(torch.bfloat16):    # yields on rank 0 only, runs on all
            ...
        engine.close()
    """

    def __init__(
        self, model_path: str, config: LearnerConfig, *, seed: int, rank_info: RankInfo | None = None, base: str = ""
    ) -> None:
        """``base``: the model that an adapter at ``model_path`` belongs to, if not the one that it names itself."""
        self.rank_info = rank_info or RankInfo()
        self.config = config
        self.companions = read_companions(model_path)
        """Configuration and tokenizer files for checkpoints, read now: the start model may be deleted later."""
        # sched_getaffinity, because os.cpu_count also counts processors that a cpuset keeps from this process.
        torch.set_num_threads(torch_threads(config, os.environ, len(os.sched_getaffinity(0))))
        set_up_process()
        torch.manual_seed(seed)
        # Before load_model: transformers imports DeepSpeed, which reads the settings made here.
        deepspeed = import_deepspeed(self.rank_info.device)
        init_process_group(deepspeed, self.rank_info, timeout_seconds=config.rank_timeout_seconds)
        device = self.rank_info.device
        self.parallel = sequence_parallel(config, self.rank_info)
        self.base: str
        """The model whose weights were loaded; with ``learner.lora`` they stay as they are."""
        self.module: nn.Module
        self.module, self.base = load_policy(model_path, config, device, base=base, parallel=self.parallel)
        scored = ScoredModel(
            self.module, compiled=config.compile, join=None if self.parallel is None else self.parallel.joined
        )
        self._flops = throughput.FlopCounter(self.module)
        self._experts = ExpertLoad(self.module)
        self.deepspeed = training_engine(scored, config, device)
        bound_collectives(config.rank_timeout_seconds)  # after the engine, for which DeepSpeed makes its groups
        self._scorer = Scorer.around(scored, device, forward=self.deepspeed, parallel=self.parallel)
        self.vocabulary = self._scorer.vocabulary
        """Columns of the model's output."""
        self.links = RankLinks(self.rank_info, timeout_seconds=config.rank_timeout_seconds)
        self.planned_bytes = _planned(self.module, config, device)
        """Most memory that this rank should hold (``rlserve.memory.formulas``); 0: not known."""
        self._skipped_steps = 0
        self.before_update: Callable[[], object] = lambda: None
        """Called before each optimizer step changes the weights."""
        if config.packing:
            # Far above the rounding of either type, far below the error of attention across sequences.
            check_packing(self._scorer, tolerance=1e-3 if config.dtype == "float32" else 0.3)

    @torch.no_grad()
    def logprobs(self, batch: TokenBatch, *, needs: Collection[str] = ENTROPY) -> PolicyOutputs:
        """Outputs ``[B, T]`` under the present weights, without gradient, in host memory."""
        outputs = self._scorer(batch, needs=needs)
        given = {f.name: getattr(outputs, f.name) for f in fields(outputs)}
        return replace(outputs, **{name: t.cpu() for name, t in given.items() if isinstance(t, Tensor)})

    def step(
        self,
        micro_batches: Sequence[TokenBatch],
        *,
        loss: LossFunction,
        lr: float,
        needs: Collection[str] = ENTROPY,
    ) -> StepReport:
        """One update from this rank's micro-batches; every rank has equally many.

        A step whose loss or gradient norm is not finite is skipped: weights and optimizer stay as they are.
        """
        started = time.perf_counter()
        self._experts.take()  # a warm-up may have been counted
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr  # set at each step, so that a schedule needs no state of its own
        shares = [
            self._backward(batch, loss, needs, is_last=index == len(micro_batches) - 1)
            for index, batch in enumerate(micro_batches)
        ]
        grad_norm, skipped = self._update()
        total, merged = self._merge(shares, micro_batches)
        self._skipped_steps += skipped
        seen, flops, held = (float(merged.pop(name).value) for name in (TOKENS, FLOPS, PEAK_BYTES))
        return StepReport(
            loss=total,
            metrics=metrics.results(merged),
            grad_norm=grad_norm,
            skipped=skipped,
            updates=int(not skipped),
            skipped_steps=self._skipped_steps,
            seconds=time.perf_counter() - started,
            tokens=seen,
            flops=flops,
            peak_flops=throughput.peak_flops(self.rank_info.device, self.dtype),
            ranks=self.rank_info.world_size,
            peak_bytes=held,
            expert_load=busiest(self.links.sum(self._experts.take())) if self._experts.counts.numel() else 0.0,
            planned_bytes=self.planned_bytes,
        )

    def output_gradient_norm(
        self, micro_batches: Sequence[TokenBatch], *, loss: LossFunction, needs: Collection[str]
    ) -> float:
        """Norm of the loss's gradient by the policy's outputs: how hard these groups alone would pull at the policy.

        Infinite or not a number when loss or gradient is. Changes nothing. Every rank must call it.
        """
        square = torch.zeros((), dtype=torch.float64)  # a sum of squares over many tokens loses digits in float32
        for batch in micro_batches:
            with torch.no_grad():
                outputs = self._scorer(batch, needs=needs)
            square += _squared_pull(outputs, batch.to(self.rank_info.device), loss)
        return float(self.sum_of_rows(square).sqrt())

    def warm_up(self, *, width: int, trained: int, needs: Collection[str] = ENTROPY) -> None:
        """Run a full micro-batch of rows of ``width`` tokens forward and backward, the last ``trained`` trained on.

        What libraries make at first use is then made before the first step, while other actors start. The added
        gradient is 0. Raises LimitExceeded when the micro-batch does not fit into the device's memory. Every rank
        must call it.
        """
        tokens = self.config.tokens_per_micro_batch
        if self.rank_info.device.type == "cpu":
            tokens = min(tokens, CPU_WARM_UP_TOKENS)
        rows, width = max(1, tokens // width), min(width, tokens)
        batch = blank(rows=rows, width=width, trained=trained, packed=self.config.packing)
        try:
            # Not the last micro-batch: its gradient of zeros stays in the sum, and no update is made.
            self._backward(batch, _zero_loss, needs, is_last=False)
        except torch.OutOfMemoryError as error:
            raise LimitExceeded(
                f"learner.tokens_per_micro_batch: {tokens} tokens do not fit into the memory of "
                f"{self.rank_info.device}; lower it, set learner.gradient_checkpointing, or raise learner.zero_stage "
                f"({error})"
            ) from error

    def set_unshared(self, tokens: Tensor) -> None:
        """Set the policy tokens missing from the teacher's vocabulary, ``[V]`` bool; shorter is padded with False."""
        mask = torch.zeros(self._scorer.vocabulary, dtype=torch.bool)
        mask[: len(tokens)] = tokens
        self._scorer = replace(self._scorer, unshared=mask)

    def weights(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Copies of all weights, or of the adapters, in host memory by Hugging Face name; yielded on rank 0 only.

        Tied ones once. Every rank must call and exhaust it: ZeRO-3 gathers each weight from all ranks.
        """
        return gather(self.module, dtype, is_receiver=self.rank_info.rank == 0)

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Copies in host memory of this rank's share of the optimizer's tensors, ``(<name>@<start>, [n])``."""
        info = self.rank_info
        return optimizer_state.collect(self.module, self.deepspeed.optimizer, rank=info.rank, ranks=info.world_size)

    @property
    def optimizer_steps(self) -> int:
        """Updates that the optimizer applied; skipped steps do not count."""
        return optimizer_state.applied_steps(self.deepspeed.optimizer)

    def restore_optimizer(self, steps: int, read: Read) -> None:
        """Restore what ``optimizer_state`` of all ranks yielded. Called on every rank."""
        if not steps:
            return
        # The optimizer has no state tensors before its first update: make them at rate 0 with a gradient of zeros.
        self.step([blank(rows=1, width=2, trained=1)], loss=_zero_loss, lr=0.0)
        optimizer_state.restore(self.module, self.deepspeed.optimizer, steps, read)

    @cached_property
    def base_digest(self) -> str:
        """Digest of the files of the model that adapters belong to; reads all of them."""
        return weights_digest(self.base)

    def sum_of_rows(self, values: Tensor) -> Tensor:
        """Elementwise sum over the ranks of what each has of its rows; those that share rows count once."""
        return self.links.sum(values) / self.config.sequence_parallel

    def rng_states(self) -> Tensor:
        """``[ranks, bytes]``: every rank's random state; a collective."""
        return self.links.stack(torch.get_rng_state())

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model's weights."""
        return DTYPES[self.config.dtype]

    def close(self) -> None:
        """Destroy the process group, which all engines of this process share."""
        # Not at the top: there it would come before ``import_deepspeed`` has prepared the process.
        from deepspeed import comm

        # The heartbeat first: it writes to the store that rank 0's process group holds.
        self.links.close()
        self.deepspeed.destroy()
        comm.destroy_process_group()

    def _backward(
        self, batch: TokenBatch, loss: LossFunction, needs: Collection[str], *, is_last: bool
    ) -> tuple[Tensor, dict[str, Metric]]:
        # Before the forward pass, as DeepSpeed's documentation of the method asks.
        self.deepspeed.set_gradient_accumulation_boundary(is_last)
        outputs = self._scorer(batch, needs=needs)
        share = loss(outputs, batch.to(self.rank_info.device))
        # A gradient may be finite under a loss that is not. Multiplied by NaN, its norm shows every rank that the step
        # must be skipped.
        nan_if_invalid = torch.where(torch.isfinite(share.loss.detach()), 1.0, torch.nan)
        groups = self.rank_info.world_size // self.config.sequence_parallel
        self.deepspeed.backward(share.loss * (nan_if_invalid * groups))
        # Detached, so that no micro-batch keeps its graph until the end of the step.
        return share.loss.detach(), dict(share.metrics)

    def _update(self) -> tuple[float, bool]:
        """(global gradient norm, skipped)."""
        self.before_update()
        if effective_stage(self.config) == 0:
            return self._update_unsharded()
        self.deepspeed.step()
        return float(self.deepspeed.get_global_grad_norm()), not self.deepspeed.was_step_applied()

    def _update_unsharded(self) -> tuple[float, bool]:
        # The last backward pass has reduced the gradients over the ranks, so all of them get the same norm and all skip
        # or none.
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.config.max_grad_norm))
        if norm - norm != 0:  # infinite or not a number; before the step, which would write it into the weights
            self.deepspeed.zero_grad()
            return norm, True
        self.deepspeed.step()
        return norm, False

    def _merge(
        self, shares: Sequence[tuple[Tensor, dict[str, Metric]]], micro_batches: Sequence[TokenBatch]
    ) -> tuple[float, dict[str, Metric]]:
        """(loss, metrics) over all micro-batches of all ranks."""
        # The loss travels as one more metric, under a name that no algorithm uses: one collective instead of two.
        parts = [
            {**measured, "": metrics.total(loss), **self._work(batch)}
            for (loss, measured), batch in zip(shares, micro_batches, strict=True)
        ]
        merged = metrics.merge(parts)
        sums, extremes = metrics.to_vectors(merged)
        # Two collectives for all metrics: sums and extremes cannot be reduced by one operation.
        merged = metrics.from_vectors(merged, self.sum_of_rows(sums), self.links.maximum(extremes))
        return float(merged.pop("").value), merged

    def _work(self, batch: TokenBatch) -> dict[str, Metric]:
        lengths = throughput.sequence_lengths(batch.position_ids, batch.sequence_ids)
        counts = {TOKENS: float(lengths.sum()), FLOPS: self._flops(lengths)}
        held = torch.tensor(float(throughput.peak_bytes(self.rank_info.device)))
        return {
            **{name: metrics.total(torch.tensor(value, dtype=torch.float64)) for name, value in counts.items()},
            PEAK_BYTES: metrics.maximum(held, torch.ones(())),
        }


def _planned(model: Any, config: LearnerConfig, device: torch.device) -> float:
    shape = ModelShape.from_json(model.config.to_dict())
    return 0.0 if shape is None else float(learner_rank(shape, config, on_gpu=device.type == "cuda").total)


def blank(*, rows: int, width: int, trained: int, packed: bool = False) -> TokenBatch:
    """``rows`` sequences of ``width`` tokens 0, trained on the last ``trained``; in one row if ``packed``."""
    shape = (1, rows * width) if packed else (rows, width)  # [B, T]
    positions = torch.arange(width).repeat(rows).view(shape)
    zeros = torch.zeros(shape)
    return TokenBatch(
        token_ids=torch.zeros(shape, dtype=torch.int64),
        position_ids=positions,
        sequence_ids=torch.arange(rows).repeat_interleave(width).view(shape),
        loss_mask=(positions >= max(1, width - trained)).float(),
        behavior_logprobs=zeros,
        advantages=zeros,
        lag=torch.zeros(shape, dtype=torch.int64),
    )


def _squared_pull(outputs: PolicyOutputs, batch: TokenBatch, loss: LossFunction) -> Tensor:
    given = {f.name: getattr(outputs, f.name) for f in fields(outputs)}
    # [B, T, ...] each, cut from the model: the gradient by the outputs needs no backward pass through it.
    leaves = {name: t.detach().requires_grad_() for name, t in given.items() if isinstance(t, Tensor)}
    share = loss(replace(outputs, **leaves), batch).loss
    square = (0.0 * share.detach()).double()  # 0, or NaN when the loss is not finite
    if share.requires_grad:
        # allow_unused: entropy, for example, is an output that the loss often only measures
        pulls = torch.autograd.grad(share, list(leaves.values()), allow_unused=True)
        square = square + sum(g.double().square().sum() for g in pulls if g is not None)
    return square.cpu()


def _zero_loss(outputs: PolicyOutputs, batch: TokenBatch) -> LossOutput:
    return LossOutput(0.0 * outputs.logprobs.sum(), {})
