"""Loads any Hugging Face causal LM without dropout, and scores the tokens of micro-batches that the loss reads.

Shape letters: B rows, T tokens in a row, N tokens scored, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlserve.actors.learner.train.sequence_parallel import SequenceParallel
from rlserve.actors.learner.train.zero import partitioned
from rlserve.algorithms.batch import PolicyOutputs, TokenBatch, per_token_fields
from rlserve.algorithms.logprobs import outputs_of, query_of
from rlserve.config.tables.learner import LearnerConfig
from rlserve.cpu_kernels import short_attention
from rlserve.errors import ConfigError
from rlserve.models import attention
from rlserve.models.adapter_files import adapter_at
from rlserve.models.adapters import add_adapter, load_adapter
from rlserve.models.layers import apply_kernels, compile_layers
from rlserve.models.scored_model import ScoredModel, check_fused

ROUNDING = 1e-9
"""A share such as 1/3 times 3 layers must give 1, not a number just below it."""
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(
    path: str, config: LearnerConfig, device: torch.device = CPU, parallel: SequenceParallel | None = None
) -> nn.Module:
    """Load the causal LM at ``path`` (a directory or hub name) in ``learner.dtype``, to run on ``device``.

    In stage 3 all ranks call it, and each holds its part alone from the start. With ``parallel`` it runs on stretches
    of rows.

    No remote code is run. Dropout is off everywhere, so that a step is a function of weights and batch alone. Raises
    ConfigError for an attention or kernels that cannot be had.
    """
    from transformers import AutoModelForCausalLM

    chosen = attention.choose(config.attention, packing=config.packing, dtype=config.dtype, device=device)
    attention.register(device)
    if parallel is not None:
        parallel.register()
        chosen = attention.SHARED_ROWS

    # An actor's output is a log file, in which a bar is only noise.
    with _no_progress_bar(), _blaming_attention(chosen), partitioned(config, device):
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[config.dtype], attn_implementation=chosen, trust_remote_code=False
        )
    if conversions := getattr(model, "_weight_conversions", None):
        # transformers 5.19 keeps all that it knows for a partitioned model, and for a whole one only those used.
        model._weight_conversions = [each for each in conversions if each.was_used()]
    model.eval()
    model.config.use_cache = False  # whole sequences at once need no key-value cache
    if config.gradient_checkpointing:
        _checkpoint_layers(model, config.recomputed_share)
    if config.kernels:
        apply_kernels(model, config.kernels)
    if config.compile:
        compile_layers(model)
    loaded: nn.Module = model
    return loaded


def load_policy(
    path: str, config: LearnerConfig, device: torch.device, *, base: str = "", parallel: SequenceParallel | None = None
) -> tuple[nn.Module, str]:
    """The model at ``path`` with the adapters of ``learner.lora``, and the path of the model that was loaded.

    An adapter at ``path`` is loaded upon ``base``, or the model that it names. Raises ConfigError.
    """
    adapter = adapter_at(path)
    if adapter is not None and config.lora is None:
        raise ConfigError(
            f"learner.lora: is not set, but {path!r} is an adapter; add [learner.lora], or make a model of it by "
            "rlserve export"
        )
    source = (base or adapter.base) if adapter else path
    model = load_model(source, config, device, parallel)
    if config.lora is not None:
        add_adapter(model, config.lora)
    if adapter is not None:
        load_adapter(model, path)
    return model, source


@contextmanager
def _blaming_attention(name: str) -> Iterator[None]:
    """transformers raises one of these for a name that it does not know, or whose library is missing."""
    try:
        yield
    except (ImportError, KeyError, ValueError) as error:
        if name not in str(error):
            raise
        raise ConfigError(f"learner.attention: {name!r} cannot be had: {str(error).splitlines()[0]}") from error


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


def _checkpoint_layers(model: Any, share: float) -> None:
    """Recompute a share of the layers, evenly spread, in the backward pass, with dropout still off.

    Transformers recomputes only layers in training mode. The mode is set on the layer alone, so that the dropout
    modules inside stay in evaluation mode.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = (layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer))
    for number, layer in enumerate(layers):
        # True for each layer at which the share of those so far passes a whole number.
        layer.training = int((number + 1) * share + ROUNDING) > int(number * share + ROUNDING)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Runs the model on micro-batches and scores their tokens.

    Example, ``loss_mask`` 1 in columns 7 to 9 of 20::

        scorer = Scorer.around(model, torch.device("cpu"))
        outputs = scorer(batch, needs=("entropy",))
        outputs.logprobs.shape             # [B, 20]; the head ran on columns 7 to 9, the others are 0
    """

    forward: Callable[..., Any]
    """The scored model, or DeepSpeed's engine around it."""
    device: torch.device
    vocabulary: int
    recomputes: bool = False
    """Layers are computed again in the backward pass (gradient checkpointing)."""
    tells_starts: bool = False
    """The model's attention gets the places where sequences begin."""
    parallel: SequenceParallel | None = None
    """How ranks share rows; None: each row is here whole."""
    unshared: Tensor | None = None
    """``[V]`` bool, in host memory: policy tokens missing from the teacher's vocabulary."""

    @classmethod
    def around(
        cls,
        model: nn.Module,
        device: torch.device,
        *,
        forward: Callable[..., Any] | None = None,
        parallel: SequenceParallel | None = None,
    ) -> "Scorer":
        """The scorer of ``model``, or of the scored model that is called through ``forward``."""
        scored = model if isinstance(model, ScoredModel) else ScoredModel(model)
        check_fused(scored, forward or scored, device, sharing=1 if parallel is None else parallel.size)
        config: Any = scored.model.config
        recomputes = bool(getattr(scored.model, "is_gradient_checkpointing", False))
        # get_text_config: a multimodal configuration keeps the vocabulary in its text part.
        return cls(
            forward or scored,
            device,
            config.get_text_config().vocab_size,
            recomputes=recomputes,
            tells_starts=attention.takes_starts(config._attn_implementation),
            parallel=parallel,
        )

    def __call__(self, batch: TokenBatch, *, needs: Collection[str]) -> PolicyOutputs:
        """Outputs ``[B, T]`` on the device, of a batch in host memory; 0 where no score is asked for.

        No attention mask is passed: rows are padded on the right, so no token attends to padding, and the positions of
        packed rows show the model where a sequence begins.
        """
        # All decisions from host memory: a look at the device's would wait for all that is queued there.
        places = scored_places(batch)  # [N]
        query = query_of(batch, places, needs=needs, unshared=self.unshared)
        inputs, read = self._inputs(batch), places - 1
        if self.parallel is not None:
            # In rows that are a little wider: ``_inputs`` pads them.
            width = batch.token_ids.shape[1]
            read = read // width * self.parallel.width(width) + read % width
        with self._attention(batch.token_ids.shape[1]):
            scores = self.forward(places=read.to(self.device), query=query.to(self.device), **inputs)
        return outputs_of(scores, places.to(self.device), batch.token_ids.shape, needs=needs)

    def _inputs(self, batch: TokenBatch) -> dict[str, Any]:
        ids, positions, parallel = batch.token_ids, batch.position_ids, self.parallel
        starts = {}
        if parallel is not None:
            ids, positions = parallel.padded(ids, positions)
        if self.tells_starts:
            starts = attention.Sequences.of(positions).arguments(self.device)
        if parallel is not None:
            ids, positions = parallel.own(ids), parallel.own(positions)
        if parallel is not None or is_packed(batch):
            starts["position_ids"] = positions.to(self.device)
        return {"input_ids": ids.to(self.device), "use_cache": False, **starts}

    def _attention(self, width: int) -> AbstractContextManager[None]:
        # The recomputation in the backward pass would run outside of this context, with another kernel.
        return nullcontext() if self.recomputes else short_attention(width, self.device)


def is_packed(batch: TokenBatch) -> bool:
    """Whether a row holds several sequences: positions restart in it."""
    return bool((batch.position_ids[:, 1:] == 0).any())


def scored_places(batch: TokenBatch) -> Tensor:
    """``[N]`` int64: tokens to score (``PerToken.scored_unless``), counted in the flattened batch.

    Never the first of a sequence, which nothing predicts, nor padding.
    """
    wanted = [
        # [B, T] bool
        values != mark.scored_unless
        for name, mark in per_token_fields(batch).items()
        if mark.scored_unless is not None and (values := getattr(batch, name)) is not None
    ]
    predicted = (batch.position_ids > 0) & (batch.sequence_ids >= 0)
    return (torch.stack(wanted).any(dim=0) & predicted).flatten().nonzero()[:, 0]


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
