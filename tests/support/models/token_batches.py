"""Random micro-batches in float64, padded or packed, for tests of losses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.masked import denominator

PROMPT = 2


@dataclass
class Sample:
    """One sequence: a prompt of PROMPT tokens, then ``tokens`` sampled ones, of which ``mask`` are trained on."""

    tokens: int
    policy: Tensor
    behavior: Tensor
    mask: Tensor
    advantage: float
    lag: Tensor
    proximal: Tensor
    reference: Tensor
    entropy: Tensor


def random_samples(lengths: Sequence[int], seed: int, *, spread: float = 0.4, holes: bool = False) -> list[Sample]:
    """Log-probabilities around -1.5 whose ratios spread by ``spread``; ``holes``: some tokens are masked."""
    torch.manual_seed(seed)
    return [_sample(length, spread, holes) for length in lengths]


def _sample(length: int, spread: float, holes: bool) -> Sample:
    def near(value: Tensor) -> Tensor:
        return value + spread * torch.randn(length, dtype=torch.float64)

    policy = -0.2 - 3 * torch.rand(length, dtype=torch.float64)
    mask = (torch.rand(length) < 0.7).double() if holes else torch.ones(length, dtype=torch.float64)
    return Sample(
        tokens=length,
        policy=policy,
        behavior=near(policy),
        mask=mask,
        advantage=float(torch.randn(())),
        lag=torch.randint(0, 5, (length,)),
        proximal=near(policy),
        reference=near(policy),
        entropy=torch.rand(length, dtype=torch.float64),
    )


def padded(samples: Sequence[Sample], *, first: int = 0, width: int = 0, decoupled: bool = False) -> TokenBatch:
    """A row a sample, numbered from ``first``, padded on the right to ``width`` or the longest."""
    width = max([width] + [PROMPT + s.tokens for s in samples])
    rows = [_row(s, number, decoupled) for number, s in enumerate(samples, first)]
    fills = {"sequence_ids": -1}
    stacked = {
        name: torch.stack(
            [torch.nn.functional.pad(r[name], (0, width - len(r[name])), value=fills.get(name, 0)) for r in rows]
        )
        for name in rows[0]
    }
    stacked["position_ids"] = torch.arange(width).expand(len(rows), width).contiguous()
    return TokenBatch(**stacked)


def packed(samples: Sequence[Sample], *, first: int = 0, decoupled: bool = False) -> TokenBatch:
    """All samples in one row."""
    rows = [_row(s, number, decoupled) for number, s in enumerate(samples, first)]
    return TokenBatch(**{name: torch.cat([r[name] for r in rows])[None] for name in rows[0]})


def with_reference(samples: Sequence[Sample], batch: TokenBatch, *, first: int = 0) -> TokenBatch:
    """The batch with the samples' reference log-probabilities."""
    return replace(batch, reference_logprobs=scatter(samples, "reference", batch, first=first))


def scatter(samples: Sequence[Sample], field: str, batch: TokenBatch, *, first: int = 0) -> Tensor:
    """A ``[B, T]`` tensor with the samples' ``field`` on their sampled tokens, 0 elsewhere."""
    out = torch.zeros_like(batch.loss_mask)
    for number, sample in enumerate(samples, first):
        here = (batch.sequence_ids == number) & (batch.position_ids >= PROMPT)
        out[here] = getattr(sample, field).to(out.dtype)
    return out


def gather(values: Tensor, samples: Sequence[Sample], batch: TokenBatch, *, first: int = 0) -> list[Tensor]:
    """Undo ``scatter``: one ``[tokens]`` tensor a sample."""
    return [
        values[(batch.sequence_ids == number) & (batch.position_ids >= PROMPT)]
        for number, _ in enumerate(samples, first)
    ]


def whole(batch: TokenBatch):
    """Denominator of a batch that is one micro-batch."""
    return denominator([batch], num_sequences=int(batch.sequence_ids.max()) + 1)


def as_float32(batch: TokenBatch) -> TokenBatch:
    """As the pipeline makes them."""
    names = ("loss_mask", "behavior_logprobs", "advantages")
    return replace(batch, **{name: getattr(batch, name).float() for name in names})


def _row(sample: Sample, number: int, decoupled: bool) -> dict[str, Tensor]:
    def after_prompt(values: Tensor) -> Tensor:
        return torch.cat([torch.zeros(PROMPT, dtype=values.dtype), values])

    length = PROMPT + sample.tokens
    row = {
        "token_ids": torch.randint(1, 9, (length,)),
        "position_ids": torch.arange(length),
        "sequence_ids": torch.full((length,), number),
        "loss_mask": after_prompt(sample.mask),
        "behavior_logprobs": after_prompt(sample.behavior * sample.mask),
        "advantages": after_prompt(sample.mask * sample.advantage),
        "lag": after_prompt(sample.lag),
    }
    return row | ({"proximal_logprobs": after_prompt(sample.proximal * sample.mask)} if decoupled else {})
