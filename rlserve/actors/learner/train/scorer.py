"""Loads any Hugging Face causal LM without dropout, and scores the tokens of micro-batches that the loss reads.

Shape letters: B rows, T tokens in a row, K columns scored, V vocabulary.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.algorithms.batch import PolicyOutputs, TokenBatch, per_token_fields
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.config.tables.learner import LearnerConfig
from rlserve.cpu_kernels import short_attention
from rlserve.errors import ConfigError

SOFTMAX_ELEMENTS = 2**27
"""Size of the float32 log-softmax held at once, 512 MiB; a larger one is computed in chunks, again in the backward
pass."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(path: str, config: LearnerConfig) -> nn.Module:
    """Load the causal LM at ``path`` (a directory or hub name) in ``learner.dtype``; no remote code is run.

    Dropout is off everywhere, so that a step is a function of weights and batch alone.
    """
    from transformers import AutoModelForCausalLM

    # An actor's output is a log file, in which a bar is only noise.
    with _no_progress_bar():
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[config.dtype], attn_implementation=config.attention, trust_remote_code=False
        )
    model.eval()
    model.config.use_cache = False  # whole sequences at once need no key-value cache
    if config.gradient_checkpointing:
        _checkpoint_layers(model)
    loaded: nn.Module = model
    return loaded


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _checkpoint_layers(model: Any) -> None:
    """Recompute layers in the backward pass, with dropout still off.

    Transformers recomputes only layers in training mode. The mode is set on the layer alone, so that the dropout
    modules inside stay in evaluation mode.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


@dataclass(frozen=True, slots=True)
class Scorer:
    """Runs the model on micro-batches and scores their tokens.

    Example, ``loss_mask`` 1 in columns 7 to 9 of 20::

        scorer = Scorer.around(model, model, torch.device("cpu"))
        outputs = scorer(batch, needs=("entropy",))
        outputs.logprobs.shape             # [B, 20]; the head ran on columns 7 to 9, the others are 0
    """

    forward: Callable[..., Any]
    """The model, or DeepSpeed's engine around it."""
    device: torch.device
    vocabulary: int
    chooses_columns: bool
    """The model's forward takes ``logits_to_keep``, so the head runs on the scored columns alone."""
    recomputes: bool = False
    """Layers are computed again in the backward pass (gradient checkpointing)."""
    unshared: Tensor | None = None
    """``[V]`` bool: policy tokens missing from the teacher's vocabulary."""

    @classmethod
    def around(cls, model: nn.Module, forward: Callable[..., Any], device: torch.device) -> "Scorer":
        """The scorer of ``model``, called through ``forward``."""
        names = inspect.signature(model.forward).parameters
        config: Any = model.config
        recomputes = bool(getattr(model, "is_gradient_checkpointing", False))
        # get_text_config: a multimodal configuration keeps the vocabulary in its text part.
        return cls(forward, device, config.get_text_config().vocab_size, "logits_to_keep" in names, recomputes)

    def __call__(self, batch: TokenBatch, *, needs: Collection[str]) -> PolicyOutputs:
        """Outputs ``[B, T]`` on the device, of a batch in host memory; 0 in columns where no row asks for a score.

        No attention mask is passed: rows are padded on the right, so no token attends to padding, and the positions of
        packed rows show the model where a sequence begins.
        """
        inputs: dict[str, Any] = {"input_ids": batch.token_ids.to(self.device), "use_cache": False}
        if is_packed(batch):
            inputs["position_ids"] = batch.position_ids.to(self.device)
        predicted = trained_columns(batch)  # [K]
        narrow = self.chooses_columns and len(predicted) + 1 < batch.token_ids.shape[1]
        if narrow:
            # One column more than needed: policy_outputs moves each value to the token behind it, and drops the last.
            inputs["logits_to_keep"] = torch.cat([predicted - 1, torch.zeros(1, dtype=torch.int64)]).to(self.device)
        with self._attention(batch.token_ids.shape[1]):
            logits: Tensor = self.forward(**inputs).logits  # [B, K + 1, V] if narrow, else [B, T, V]
        scored = _only(batch, predicted) if narrow else batch
        outputs = policy_outputs(
            logits,
            scored.to(self.device),
            needs=needs,
            # At least 512 tokens: with fewer, a huge vocabulary would pay more for calls than it saves in memory.
            chunk_tokens=max(512, SOFTMAX_ELEMENTS // self.vocabulary),
            unshared=self.unshared,
        )
        return _spread(outputs, predicted.to(self.device), batch.token_ids.shape[1]) if narrow else outputs

    def _attention(self, width: int) -> AbstractContextManager[None]:
        # The recomputation in the backward pass would run outside of this context, with another kernel.
        return nullcontext() if self.recomputes else short_attention(width, self.device)


def is_packed(batch: TokenBatch) -> bool:
    """Whether a row holds several sequences: positions restart in it."""
    return bool((batch.position_ids[:, 1:] == 0).any())


def trained_columns(batch: TokenBatch) -> Tensor:
    """``[K]`` int64: columns where some row has a token to score (``PerToken.scored_unless``); never the first."""
    wanted = [
        # [T - 1] bool: whether any row has the column's token scored
        (values[:, 1:] != mark.scored_unless).any(dim=0)
        for name, mark in per_token_fields(batch).items()
        if mark.scored_unless is not None and (values := getattr(batch, name)) is not None
    ]
    return torch.nonzero(torch.stack(wanted).any(dim=0)).flatten() + 1  # + 1: the first column was left out above


def _only(batch: TokenBatch, columns: Tensor) -> TokenBatch:
    """The batch cut to ``columns``, behind its first column, which nothing predicts."""
    kept = torch.cat([torch.zeros(1, dtype=torch.int64), columns])
    return replace(batch, **_mapped(batch, lambda values: values[:, kept]))


def _spread(outputs: PolicyOutputs, columns: Tensor, width: int) -> PolicyOutputs:
    """``[B, K + 1, ...] -> [B, T, ...]``: undo ``_only``."""

    def spread(values: Tensor) -> Tensor:
        whole = values.new_zeros(values.shape[0], width, *values.shape[2:])  # [B, T, ...]
        return whole.index_copy(1, columns, values[:, 1:])

    return replace(outputs, **_mapped(outputs, spread))


def _mapped(record: TokenBatch | PolicyOutputs, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The record's per-token fields, changed; without those that are None."""
    found = ((name, getattr(record, name)) for name in per_token_fields(record))
    return {name: change(values) for name, values in found if values is not None}


@torch.no_grad()
def check_packing(scorer: Scorer, tolerance: float) -> None:
    """Raises ConfigError if a sequence gets other log-probabilities when it shares its row with another."""
    ids = (torch.arange(12) * 7 + 3) % min(scorer.vocabulary, 97)  # any 12 tokens will do, if they differ
    alone = [_probe(ids[:5], [5]), _probe(ids[5:], [7])]
    together = _probe(ids, [5, 7])
    apart = torch.cat([scorer(b, needs=()).logprobs for b in alone], dim=1)
    packed = scorer(together, needs=()).logprobs
    if not torch.allclose(apart, packed, atol=tolerance):
        worst = float((apart - packed).abs().max())
        raise ConfigError(
            f"learner.packing: is true, but this model attends across packed sequences "
            f"(log-probabilities differ by {worst:.3g}); set it to false, or another learner.attention"
        )


def _probe(ids: Tensor, lengths: list[int]) -> TokenBatch:
    """One row that holds sequences of ``lengths``, all of whose tokens are trained on."""
    zeros = torch.zeros(1, len(ids))
    return TokenBatch(
        token_ids=ids[None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        sequence_ids=torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None],
        loss_mask=torch.ones(1, len(ids)),
        behavior_logprobs=zeros,
        advantages=zeros,
        lag=torch.zeros(1, len(ids), dtype=torch.int64),
    )
