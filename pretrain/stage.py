"""The loop of pretraining and fine-tuning: AdamW; warm-up, constant rate, cool-down; accuracy checks.

The cool-down makes the result repeatable: at a constant rate the share of each kind of demonstration drifts from batch
to batch; while the rate falls, it settles at the share in the data.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlserve.algorithms.head import Query
from rlserve.algorithms.token_scores import Scores
from rlserve.config.tables.pretrain import StageConfig
from rlserve.cpu_kernels import set_up_process, short_attention
from rlserve.models.scored_model import ScoredModel
from rlserve.pretrain.data import IGNORE, Batch

MAX_THREADS = 8
"""More threads do not speed up models of this size."""

Report = Callable[[Mapping[str, float]], None]
"""Called with the numbers of a step: step, steps, loss, tokens_per_second, eta_seconds and, if checked, accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """The result of a stage."""

    steps: int
    """Number of optimizer steps."""
    loss: float
    """Loss of the last step, in nats per token."""
    accuracy: float | None
    """Sampled validation accuracy of the result; None if it is not checked."""


def run_stage(
    model: PreTrainedModel,
    batches: Iterator[Batch],
    config: StageConfig,
    *,
    check: Callable[[], float] | None,
    report: Report,
) -> StageResult:
    """Train ``model`` in place for ``config.steps``; an accuracy of ``config.stop_accuracy`` starts the cool-down.

    ``check()`` measures accuracy. ``report`` is called every ``config.check_every`` steps and at the end.
    """
    # fused: one kernel for all parameters, since the overhead of an operation per tensor is large beside models of
    # this size.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    set_up_process()
    scored = ScoredModel(model)
    pace = _Pace()
    step, last, loss, accuracy = 0, config.steps, 0.0, None
    model.train()
    with _threads(config.torch_threads):
        while step < last:
            step += 1
            batch = next(batches)
            loss = _update(scored, optimizer, batch, config, lr=config.lr * rate_share(step, last, config))
            pace.add(batch)
            due = step % config.check_every == 0
            # ``last == config.steps``: once the cool-down began, only its end is checked again.
            if check is not None and (step == last or (due and step >= config.check_from and last == config.steps)):
                accuracy = check()
                if step < last and accuracy >= config.stop_accuracy:
                    # The cool-down is run in full from here; `last == config.steps` above keeps later checks from
                    # moving its end.
                    last = min(last, step + config.cooldown_steps)
            if due or step == last:
                known = {} if accuracy is None else {"accuracy": accuracy}
                report({"step": step, "steps": last, "loss": loss, **pace.numbers(step, last), **known})
    model.eval()
    return StageResult(steps=step, loss=loss, accuracy=accuracy)


def rate_share(step: int, last: int, config: StageConfig) -> float:
    """Return the share of the full learning rate at ``step``, counted from 1, in a stage that ends with ``last``."""
    warm = step / max(config.warmup_steps, 1)
    # + 1: the last step still has a rate above 0, and learns from its batch.
    cool = (last - step + 1) / (config.cooldown_steps + 1)
    return min(1.0, warm, cool)


def mean_loss(model: ScoredModel, batch: Batch) -> Tensor:
    """Mean cross-entropy over the targets, in nats; only positions with a target are scored."""
    places = (batch.targets != IGNORE).flatten().nonzero()[:, 0]
    query = Query(ids=batch.targets.flatten()[places])
    with short_attention(batch.input_ids.shape[1], batch.input_ids.device):
        scores: Scores = model(places=places, query=query, input_ids=batch.input_ids, use_cache=False)
    return -scores[0].mean()


def _update(
    model: ScoredModel, optimizer: torch.optim.Optimizer, batch: Batch, config: StageConfig, *, lr: float
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = mean_loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return loss.item()


class _Pace:
    """Tokens per second and the remaining time."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._num_tokens = 0

    def add(self, batch: Batch) -> None:
        self._num_tokens += batch.input_ids.numel()

    def numbers(self, step: int, last: int) -> dict[str, float]:
        elapsed = time.monotonic() - self._started
        return {"tokens_per_second": self._num_tokens / elapsed, "eta_seconds": elapsed / step * (last - step)}


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Set torch's number of CPU threads during the block."""
    before = torch.get_num_threads()
    # The affinity and not the machine's cores: a container or taskset may give this process fewer.
    torch.set_num_threads(wanted or min(len(os.sched_getaffinity(0)), MAX_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)
