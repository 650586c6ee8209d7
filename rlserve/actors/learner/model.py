"""The policy as the learner holds it: any Hugging Face causal LM, deterministic, scored where it is trained on.

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
"""Size of the float32 log-softmax held at once; what is larger is cut into chunks and recomputed backward."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(path: str, config: LearnerConfig) -> nn.Module:
    """The causal LM at ``path`` (a directory or hub name) in ``learner.dtype``; no remote code is run.

    Dropout is off everywhere, so that a step is a function of weights and batch.
    """
    from transformers import AutoModelForCausalLM

    with _no_progress_bar():
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[config.dtype], attn_implementation=config.attention, trust_remote_code=False
        )
    model.eval()
    model.config.use_cache = False
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

    Transformers does so only for layers in training mode. The mode is set on the layer alone, not on what is in it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


@dataclass(frozen=True, slots=True)
class Scorer:
    """Runs the model on micro-batches and scores their tokens."""

    forward: Callable[..., Any]
    """The model, or DeepSpeed's engine around it."""
    device: torch.device
    vocabulary: int
    chooses_columns: bool
    """The model's forward takes ``logits_to_keep``: the head is run on the columns trained on alone."""
    recomputes: bool = False
    """Layers are computed again in the backward pass."""
    unshared: Tensor | None = None
    """``[V]`` bool: tokens that a teacher with another tokenizer has not."""

    @classmethod
    def around(cls, model: nn.Module, forward: Callable[..., Any], device: torch.device) -> "Scorer":
        """A scorer of ``model``, called through ``forward``."""
        names = inspect.signature(model.forward).parameters
        config: Any = model.config
        recomputes = bool(getattr(model, "is_gradient_checkpointing", False))
        return cls(forward, device, config.get_text_config().vocab_size, "logits_to_keep" in names, recomputes)

    def __call__(self, batch: TokenBatch, *, needs: Collection[str]) -> PolicyOutputs:
        """Outputs ``[B, T]`` on the device, of a batch in host memory; 0 in columns where no row is trained on.

        Rows are padded on the right, so the causal mask alone keeps padding out of sight; packed rows are told
        apart by their positions.
        """
        inputs: dict[str, Any] = {"input_ids": batch.token_ids.to(self.device), "use_cache": False}
        if is_packed(batch):
            inputs["position_ids"] = batch.position_ids.to(self.device)
        predicted = trained_columns(batch)
        narrow = self.chooses_columns and len(predicted) + 1 < batch.token_ids.shape[1]
        if narrow:
            # one column more than needed: what policy_outputs shifts by one then lines up
            inputs["logits_to_keep"] = torch.cat([predicted - 1, torch.zeros(1, dtype=torch.int64)]).to(self.device)
        with self._attention(batch.token_ids.shape[1]):
            logits: Tensor = self.forward(**inputs).logits
        scored = _only(batch, predicted) if narrow else batch
        outputs = policy_outputs(
            logits,
            scored.to(self.device),
            needs=needs,
            chunk_tokens=max(512, SOFTMAX_ELEMENTS // self.vocabulary),
            unshared=self.unshared,
        )
        return _spread(outputs, predicted.to(self.device), batch.token_ids.shape[1]) if narrow else outputs

    def _attention(self, width: int) -> AbstractContextManager[None]:
        return nullcontext() if self.recomputes else short_attention(width, self.device)


def is_packed(batch: TokenBatch) -> bool:
    """Whether a row holds several sequences: positions restart in it."""
    return bool((batch.position_ids[:, 1:] == 0).any())


def trained_columns(batch: TokenBatch) -> Tensor:
    """``[K]`` int64: columns where some row has a token to score (``PerToken.scored_unless``); never the first."""
    wanted = [
        (values[:, 1:] != mark.scored_unless).any(dim=0)
        for name, mark in per_token_fields(batch).items()
        if mark.scored_unless is not None and (values := getattr(batch, name)) is not None
    ]
    return torch.nonzero(torch.stack(wanted).any(dim=0)).flatten() + 1


def _only(batch: TokenBatch, columns: Tensor) -> TokenBatch:
    """The batch cut to ``columns``, behind its first column, which nothing predicts."""
    kept = torch.cat([torch.zeros(1, dtype=torch.int64), columns])
    return replace(batch, **_mapped(batch, lambda values: values[:, kept]))


def _spread(outputs: PolicyOutputs, columns: Tensor, width: int) -> PolicyOutputs:
    """``[B, K + 1, ...] -> [B, T, ...]``: undo ``_only``."""

    def spread(values: Tensor) -> Tensor:
        whole = values.new_zeros(values.shape[0], width, *values.shape[2:])
        return whole.index_copy(1, columns, values[:, 1:])

    return replace(outputs, **_mapped(outputs, spread))


def _mapped(record: TokenBatch | PolicyOutputs, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The record's per-token fields, changed; without those that are None."""
    found = ((name, getattr(record, name)) for name in per_token_fields(record))
    return {name: change(values) for name, values in found if values is not None}


@torch.no_grad()
def check_packing(scorer: Scorer, tolerance: float) -> None:
    """Raises ConfigError if a sequence is scored otherwise when it shares its row with another."""
    ids = (torch.arange(12) * 7 + 3) % min(scorer.vocabulary, 97)
    alone = [_probe(ids[:5], [5]), _probe(ids[5:], [7])]
    together = _probe(ids, [5, 7])
    apart = torch.cat([scorer(b, needs=()).logprobs for b in alone], dim=1)
    packed = scorer(together, needs=()).logprobs
    if not torch.allclose(apart, packed, atol=tolerance):
        worst = float((apart - packed).abs().max())
        raise ConfigError(
            f"learner.packing: is true, but this model sees over the border between packed sequences "
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
