"""One optimizer step of the learner's engine against a plain PyTorch loop: same model, batch, loss and AdamW.

Both run in this process, in turn, from the same weights; at the end their weights are compared, which proves that both
did the same work. Time is processor time on CPU (so that other load does not count) and wall time on GPU.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.grpo import Grpo
from rlserve.algorithms.masked import denominator
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.tables.learner import LearnerConfig

TARGET = 1.15
"""Largest ratio to the plain loop: the learner also measures, packs and handles several ranks."""
LR = 1e-5
"""Any small value will do: the time does not depend on it, and weights that stay close are easy to compare."""
# Tokens of a prompt, tokens of the longest sequence, size of the vocabulary: about those of the quick start.
PROMPT, LONGEST, VOCABULARY = 10, 35, 64


def measure(*, rounds: int = 7, sequences: int = 256, zero_stage: int = 0) -> dict[str, float]:
    """Medians over ``rounds`` of a 1.2M-parameter Qwen3 on ``sequences`` of 18 to 35 tokens, float32."""
    with tempfile.TemporaryDirectory() as directory:
        path = _save_model(Path(directory))
        settings = {"dtype": "float32", "zero_stage": zero_stage, "weight_decay": 0.01, "lr": LR}
        engine = LearnerEngine(path, LearnerConfig.model_validate(settings), seed=0)
        plain = _Plain(path, engine.rank_info.device)
    batches = _batches(sequences, tokens=2048)
    ours, theirs = [], []
    for _ in range(rounds + 1):
        with _torch_defaults():
            theirs.append(_seconds(lambda: plain.step(batches)))
        ours.append(_seconds(lambda: _step(engine, batches)))
    # Without the first round, which pays for allocations.
    ratios = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]
    return {
        "parameters": float(sum(p.numel() for p in plain.model.parameters())),
        "tokens": float(sum(b.token_ids.numel() for b in batches)),
        "micro_batches": float(len(batches)),
        "learner_seconds": statistics.median(ours[1:]),
        "plain_seconds": statistics.median(theirs[1:]),
        "ratio": statistics.median(ratios),
        "ratio_target": TARGET,
        "largest_weight_difference": _difference(engine, plain.model),
    }


@contextmanager
def _torch_defaults() -> Iterator[None]:
    """Compute products in torch's default way: ``cpu_kernels`` changed it for the whole process."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    chosen, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = chosen


class _Plain:
    """The plain loop: forward, log-softmax, clipped surrogate, backward, clip, AdamW."""

    def __init__(self, path: str, device: torch.device) -> None:
        import transformers

        self.device = device
        auto: Any = transformers.AutoModelForCausalLM
        self.model = auto.from_pretrained(path, dtype=torch.float32).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.01, fused=True
        )

    def step(self, batches: Sequence[TokenBatch]) -> None:
        # One denominator for all micro-batches: the gradient must not depend on how a batch is cut.
        tokens = sum(float(b.loss_mask.sum()) for b in batches)
        for batch in batches:
            (self._loss(batch.to(self.device)) / tokens).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, batch: TokenBatch) -> Tensor:
        log_softmax = self.model(input_ids=batch.token_ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        logprobs = log_softmax.gather(-1, batch.token_ids[:, 1:, None]).squeeze(-1)
        ratio = (logprobs - batch.behavior_logprobs[:, 1:]).exp()
        advantages = batch.advantages[:, 1:]
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
        return -(surrogate * batch.loss_mask[:, 1:]).sum()


def _step(engine: LearnerEngine, batches: Sequence[TokenBatch]) -> None:
    algorithm = Grpo(GrpoConfig())
    sequences = sum(len(b.token_ids) for b in batches)
    total = denominator(batches, num_sequences=sequences)
    engine.step(
        batches,
        loss=lambda outputs, batch: algorithm.loss(outputs, batch, total),
        lr=LR,
        needs=algorithm.needs,
    )


def _seconds(work: Callable[[], None]) -> float:
    if not torch.cuda.is_available():
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()  # kernels run asynchronously: without it, earlier ones would be measured, and ours not
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def _difference(engine: LearnerEngine, plain: Any) -> float:
    expected = dict(plain.named_parameters())
    return max(float((w - expected[name].cpu()).abs().max()) for name, w in engine.weights(torch.float32))


def _batches(sequences: int, *, tokens: int) -> list[TokenBatch]:
    """Random sequences, longest first, in micro-batches of at most ``tokens`` with padding."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(18, LONGEST + 1, (sequences,), generator=generator).sort(descending=True).values
    batches, first = [], 0
    while first < sequences:
        rows = min(tokens // int(lengths[first]), sequences - first)
        batches.append(_batch(lengths[first : first + rows], first, generator))
        first += rows
    return batches


def _batch(lengths: Tensor, first: int, generator: torch.Generator) -> TokenBatch:
    rows, width = len(lengths), int(lengths.max())
    positions = torch.arange(width).expand(rows, width).contiguous()
    here = positions < lengths[:, None]
    mask = (here & (positions >= PROMPT)).float()
    return TokenBatch(
        token_ids=torch.randint(0, VOCABULARY, (rows, width), generator=generator) * here,
        position_ids=positions,
        sequence_ids=torch.where(here, first + torch.arange(rows)[:, None], -1),
        loss_mask=mask,
        behavior_logprobs=mask * -4.1,
        advantages=mask * torch.randn(rows, 1, generator=generator),
        lag=torch.zeros(rows, width, dtype=torch.int64),
    )


def _save_model(directory: Path) -> str:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return str(directory)
