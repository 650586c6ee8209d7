"""``[learner]``: optimizer, batches, staleness, streams."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from rlserve.config.base import Section
from rlserve.config.deepspeed import faults
from rlserve.config.tables.model import Dtype
from rlserve.nearest import known_names

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles", "warmup_lr_rate"),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
}
"""Names of schedules, as transformers has them, and the options of each."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
"""Options of which a schedule needs one."""


class LoraConfig(Section):
    """Low-rank adapters beside the layers of the model: only they are trained, published and kept in checkpoints."""

    rank: int = Field(16, ge=1)
    """Inner size of an adapter."""
    alpha: int = Field(32, ge=1)
    """What an adapter adds to its layer is multiplied by ``alpha / rank``."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: all matrix products between the embeddings, or the last parts of their names, such as
    ``["q_proj", "v_proj"]``."""

    @property
    def scale(self) -> float:
        """Factor of what an adapter adds."""
        return self.alpha / self.rank


class LearnerConfig(Section):
    """The learner: optimizer, batches, staleness, streams."""

    address: str = "127.0.0.1:0"
    """Address of rank 0; port 0 takes a free one."""
    ranks: int = Field(1, ge=1)
    """Processes (GPUs) that train."""
    sequence_parallel: int = Field(1, ge=1)
    """Ranks that share each row of tokens, for sequences longer than one GPU holds (Ulysses). Divides ``ranks`` and the
    model's heads."""
    rank_timeout_seconds: float = Field(600.0, gt=0)
    """Longest wait of one rank for another in a collective operation; then the run ends with the name of that rank."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO stage of DeepSpeed: what ranks share out, from nothing (0) over the optimizer's state (1) and the gradients
    (2) to the weights (3)."""
    dtype: Dtype = "bfloat16"
    """Precision in which the model computes; master weights and the optimizer's state are float32."""
    publish_dtype: Dtype | None = None
    """Precision of published weights; unset: ``rollout.dtype``."""
    lr: float = Field(1e-6, gt=0)
    """Learning rate of AdamW, after the warm-up."""
    schedule: str = "constant"
    """Of the learning rate, after warm-up: ``constant``, ``linear``, ``cosine`` or another name of ``SCHEDULES``, as
    ``transformers.get_scheduler`` makes it over ``steps``."""
    schedule_options: dict[str, float | str] = Field(default_factory=dict)
    """Of the schedule, e.g. ``{ min_lr_rate = 0.1 }`` for ``cosine_with_min_lr``."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises to ``lr``."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's averages of the gradient and of its square."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Added to the root of AdamW's second average: bounds the update where gradients are tiny."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Global gradient norm is clipped here."""
    groups_per_step: int = Field(32, ge=1)
    """Groups in one optimizer batch, after uninformative ones are dropped."""
    tokens_per_micro_batch: int = Field(8192, ge=8)
    """Padded tokens in one forward pass."""
    packing: bool = False
    """Pack sequences into one row; else bucket by length. On a GPU it is the faster one."""
    max_lag: int = Field(4, ge=0)
    """No token older than this many versions is trained on."""
    batches_ahead: int | None = Field(None, ge=0)
    """Batches of groups leased or queued at once, beside the one in training; unset: ``max_lag``. 0 waits for the
    weights of each step (synchronous). A small number keeps samples fresh, while a larger ``max_lag`` leaves room for
    samples that take long."""
    max_token_lag: int | None = Field(None, ge=0)
    """Tokens older than this many versions are masked while the rest of their sequence is trained on; unset: none is
    masked. ``max_lag`` drops whole groups."""
    minibatches: int = Field(1, ge=1)
    """Parts of a batch of groups, each an optimizer update of its own. With more than one update a batch, ratios are to
    the policy at its start (the proximal policy), to which the behaviour policy is corrected."""
    passes: int = Field(1, ge=1)
    """Epochs over one batch."""
    lease_seconds: float = Field(120.0, gt=0)
    """A leased task without progress (no token, no step) for this long goes to another worker. A task that makes
    progress has no time limit."""
    max_wait_seconds: float = Field(300.0, gt=0)
    """Longest wait for a batch without any progress; then the run ends with the name of the missing actor."""
    max_group_bytes: int = Field(64 * 2**20, ge=2**16, le=2**30)
    """Largest group accepted on the rollout stream; four of them may be in transfer at once, over all workers."""
    chunk_bytes: int = Field(2**20, ge=4096, le=3 * 2**20)
    """Size of one chunk of weights on the policy stream."""
    ess_warn: float = Field(0.9, ge=0, le=1)
    """Warn when the effective sample size falls below this share."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    recomputed_share: float = Field(1.0, gt=0, le=1)
    """Share of the layers for which ``gradient_checkpointing`` does so: the smaller, the faster and the more memory."""
    attention: str = ""
    """How the model attends: ``"varlen"`` (packed rows without a mask), or a name that transformers knows, such as
    ``"sdpa"``, ``"flex_attention"``, ``"flash_attention_2"``. Empty: ``"varlen"`` for packed rows in bfloat16 on a GPU,
    else ``"sdpa"``."""
    compile: bool = False
    """Compile the decoder layers and the output head with ``torch.compile``: fewer passes over memory, a minute more at
    the start. Not with ``zero_stage = 3``."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Keys of DeepSpeed's own configuration, passed on: offload of optimizer or parameters, sizes of buckets. What
    follows from other tables is refused by name."""
    kernels: Literal["", "liger"] = ""
    """Library whose kernels replace the model's norms, rotary embedding and activation on a GPU; ``"liger"`` is
    installed by ``rlserve[liger]``."""
    lora: LoraConfig | None = None
    """Train adapters instead of the model; ``[learner.lora]`` alone takes the defaults. A learning rate of 1e-4 to 1e-3
    suits them."""
    torch_threads: int = Field(0, ge=0)
    """CPU threads of torch; 0: from the number of cores."""

    @model_validator(mode="after")
    def _schedule_exists(self) -> "LearnerConfig":
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: is {self.schedule!r}{known_names(self.schedule, SCHEDULES)}")
        options = SCHEDULES[self.schedule]
        for option in self.schedule_options:
            if option not in options:
                known = known_names(option, options)
                raise ValueError(f"schedule_options.{option}: is no option of {self.schedule!r}{known}")
        needed = NEEDED.get(self.schedule, ())
        if needed and not set(needed) & set(self.schedule_options):
            raise ValueError(f"schedule_options: {self.schedule!r} needs {' or '.join(needed)}; give it")
        return self

    @model_validator(mode="after")
    def _deepspeed_takes_the_keys(self) -> "LearnerConfig":
        if found := list(faults(self.deepspeed)):
            raise ValueError(found[0])
        return self

    @model_validator(mode="after")
    def _publishes_adapters_as_they_are(self) -> "LearnerConfig":
        if self.lora is not None and self.publish_dtype is not None:
            raise ValueError(
                f"learner.publish_dtype: is {self.publish_dtype!r} with [learner.lora], whose adapters are published "
                "as they are trained; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _ranks_share_rows(self) -> "LearnerConfig":
        size = self.sequence_parallel
        if self.ranks % size:
            raise ValueError(f"sequence_parallel: is {size}, which does not divide ranks = {self.ranks}")
        if size > 1 and self.compile:
            raise ValueError(f"compile: is true with sequence_parallel = {size}; set one of the two otherwise")
        if size > 1 and self.attention not in ("", "varlen"):
            raise ValueError(
                f"attention: is {self.attention!r} with sequence_parallel = {size}, which attends by 'varlen'; leave "
                "it empty"
            )
        return self

    @model_validator(mode="after")
    def _compiles_whole_weights(self) -> "LearnerConfig":
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "learner.compile: is true with zero_stage = 3, which gathers each weight while a layer runs; set "
                "zero_stage to 2 or less, or compile = false"
            )
        if self.compile and self.kernels:
            raise ValueError(
                f"learner.kernels: is {self.kernels!r} with compile = true, but torch.compile fails on its kernels; "
                "take one of the two"
            )
        return self
