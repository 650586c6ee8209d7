"""What a learner engine is given in tests: a tiny checkpoint, random batches, a loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlserve.actors.checkpoints import Checkpoint
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.saving.checkpoint import CheckpointWriter, Plan
from rlserve.algorithms import metrics
from rlserve.algorithms.batch import LossOutput, PolicyOutputs, TokenBatch
from tests.support.models.tiny_policies import VOCABULARY, tiny_model

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.2,
}


def save_policy(path: Path, *, family: str = "qwen3", tied: bool = True, **changes: Any) -> Path:
    """A random policy of 18 thousand parameters, with a file that stands for its tokenizer."""
    tiny_model(family, tied=tied, **{**SMALL, **changes}).save_pretrained(path)
    (path / "tokenizer.json").write_text('{"stands": "for a tokenizer"}')
    return path


def random_batch(seed: int, *, rows: int = 16, width: int = 20, prompt: int = 4) -> TokenBatch:
    """``rows`` sequences of 6 to ``width`` tokens, one a row; the first ``prompt`` of each are given.

    They were sampled at temperatures 0.8, 1 and 1.2, by turns.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, width + 1, (rows,), generator=generator)
    lengths[0] = width
    position_ids = torch.arange(width).expand(rows, width).contiguous()
    here = position_ids < lengths[:, None]
    mask = (here & (position_ids >= prompt)).float()
    return TokenBatch(
        token_ids=torch.randint(0, VOCABULARY, (rows, width), generator=generator) * here,
        position_ids=position_ids,
        sequence_ids=torch.where(here, torch.arange(rows)[:, None], -1),
        loss_mask=mask,
        behavior_logprobs=mask * -4.1,
        advantages=mask * torch.randn(rows, 1, generator=generator),
        lag=torch.zeros(rows, width, dtype=torch.int64),
        group_ids=torch.where(here, torch.arange(rows)[:, None] // 4, -1),
        temperatures=torch.where(here, 0.8 + 0.2 * (torch.arange(rows)[:, None] % 3), 1.0),
    )


def split(batch: TokenBatch, parts: int) -> list[TokenBatch]:
    """A batch as ``parts`` micro-batches of equally many rows."""
    rows = batch.token_ids.shape[0] // parts
    return [pick_rows(batch, slice(i * rows, (i + 1) * rows)) for i in range(parts)]


def pick_rows(batch: TokenBatch, rows: slice) -> TokenBatch:
    """Some rows of a batch."""
    given = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: t[rows] for name, t in given.items() if isinstance(t, Tensor)})


def policy_gradient(batches: Sequence[TokenBatch]) -> Callable[[PolicyOutputs, TokenBatch], LossOutput]:
    """A loss to train by: -A times log-probability, divided by the trained tokens of all ``batches``."""
    tokens = sum(float(b.loss_mask.sum()) for b in batches)

    def loss(outputs: PolicyOutputs, batch: TokenBatch) -> LossOutput:
        terms = torch.where(batch.loss_mask != 0, -batch.advantages * outputs.logprobs, 0.0)
        measured = {
            "logprob": metrics.mean(outputs.logprobs, batch.loss_mask),
            "logprob_min": metrics.minimum(outputs.logprobs, batch.loss_mask),
            "tokens": metrics.total(batch.loss_mask),
        }
        return LossOutput(terms.sum() / tokens, measured)

    return loss


def save(
    directory: Path,
    step: int,
    engine: LearnerEngine,
    state: Mapping[str, Any],
    *,
    beside: Callable[[Path], object] | None = None,
    **plan: Any,
) -> Checkpoint:
    """A checkpoint of one rank, in place on return."""
    saving, found = CheckpointWriter(engine), list[Checkpoint]()
    saving.save(Plan(directory=directory, step=step, state=state, saved=found.append, **plan), beside=beside)
    saving.wait()
    saving.close()
    return found[0]
