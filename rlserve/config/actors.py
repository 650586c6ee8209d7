"""One section per actor."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlserve.config.base import Section
from rlserve.plugins import HELD_OUT_SPLITS

Dtype = Literal["float32", "bfloat16"]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class ModelConfig(Section):
    """The policy that is trained."""

    path: str = ""
    """Hugging Face checkpoint directory, a run directory (its newest checkpoint), or a hub name. Empty: made here by
    [pretrain] and [sft]."""
    max_length: int = Field(2048, ge=8)
    """Context in tokens, prompt and completion together."""


class TaskSamplingConfig(Section):
    """How an environment's tasks are sampled where they do not say themselves; unset: as ``[rollout]`` says."""

    temperature: float | None = Field(None, gt=0)
    max_new_tokens: int | None = Field(None, ge=1)
    stop: tuple[StopText, ...] = Field((), max_length=64)
    """Texts that end a completion, or a turn; the tokens that spell them are kept."""


class EnvironmentConfig(Section):
    """One environment of the mixture."""

    name: str = Field(min_length=1)
    """Name in the mixture."""
    plugin: str = ""
    """Registered plug-in; empty: as ``name``. So that one plug-in can appear several times, with other options."""
    weight: float = Field(1.0, ge=0)
    """Share in the mixture, relative to the others."""
    eval_weight: float | None = Field(None, ge=0)
    """Share in the held-out measurement; none: as ``weight``. 0 for tasks that only teach, such as pairs."""
    split: str = "train"
    """Split that training draws from."""
    eval_split: str = "test"
    """Split that evaluation draws from."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the environment's constructor, e.g. the path of a task file."""
    sampling: TaskSamplingConfig = TaskSamplingConfig()
    """Sampling of its tasks, e.g. ``{ max_new_tokens = 256 }``."""
    levels: tuple[str, ...] = ()
    """Splits from easy to hard: training begins with the first, instead of ``split``, and moves on when it passes."""
    raise_at: float = Field(0.8, gt=0, le=1)
    """Pass rate at which the next level begins."""
    window: int = Field(64, ge=1)
    """Groups of the present level over which the pass rate is taken."""

    @property
    def share_in_evaluation(self) -> float:
        """Weight in the held-out measurement."""
        return self.weight if self.eval_weight is None else self.eval_weight

    @model_validator(mode="before")
    @classmethod
    def _begin_at_the_first_level(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("levels"):
            if values.get("split", values["levels"][0]) != values["levels"][0]:
                raise ValueError(f"split: is {values['split']!r}, and levels are given; leave one of the two out")
            return {**values, "split": values["levels"][0]}
        return values

    @model_validator(mode="after")
    def _held_out(self) -> "EnvironmentConfig":
        for split in self.levels or (self.split,):
            if split in HELD_OUT_SPLITS:
                held_out = ", ".join(sorted(HELD_OUT_SPLITS))
                raise ValueError(f"split: is {split!r}; training never draws from {held_out}: give another split")
        if self.eval_split in (self.levels or (self.split,)):
            raise ValueError(f"eval_split: is {self.eval_split!r}, which training draws from; give a split of its own")
        return self


class HubConfig(Section):
    """Registry of actors."""

    address: str = "127.0.0.1:0"
    """Where the hub listens; port 0 takes any free one."""
    lease_seconds: float = Field(3.0, gt=0)
    """An actor that was not heard of for this long is dead."""


class VerifierConfig(Section):
    """Verifier servers."""

    address: str = "127.0.0.1:0"
    workers: int = Field(2, ge=1)
    """Processes that judge; each judges one completion at a time. Verifiers that wait for others, such as judges, have
    a process of their own, with many at once."""
    limit_seconds: float = Field(5.0, gt=0)
    """Limit for one completion, without the time in which it waited for a processor; then its process is killed and
    there is no verdict."""
    memory_bytes: int = Field(512 * 2**20, ge=64 * 2**20)
    """Address-space limit of a judging process beyond its size at start."""
    attempts: int = Field(2, ge=1)
    """Tries of one completion before "no verdict"."""
    spares: int = Field(1, ge=0)
    """Processes kept ready beyond ``workers``, so that a killed one costs no wait."""
    start_seconds: float = Field(60.0, gt=0)
    """A judging process must have started within this."""
    recycle_completions: int = Field(5000, ge=1)
    """A judging process is replaced after this many completions."""
    recycle_growth_bytes: int = Field(128 * 2**20, ge=2**20)
    """A judging process that has grown by more than this is replaced."""
    max_queue: int = Field(4096, ge=1)
    """Completions waiting or being judged; a request that would exceed it is refused, to be sent elsewhere."""
    max_completion_bytes: int = Field(2**20, ge=1024)
    """Largest completion, prompt or payload."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Constructor options by verifier name."""


class RolloutConfig(Section):
    """Rollout workers."""

    address: str = "127.0.0.1:0"
    workers: int = Field(1, ge=0)
    """Workers that the launcher starts; more may join from elsewhere."""
    group_size: int = Field(8, ge=1)
    """Completions sampled per task."""
    max_groups_in_flight: int = Field(32, ge=1)
    """Groups that one worker holds at once."""
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(512, ge=1)
    """Length limit of a completion."""
    dtype: Dtype = "bfloat16"
    kv_cache_bytes: int = Field(0, ge=0)
    """Size of the KV cache; 0 lets vLLM decide (GPU), or is room for 8 sequences of ``model.max_length`` (CPU)."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences that the engine runs at once."""
    tensor_parallel: int = Field(1, ge=1)
    gpu_memory_fraction: float = Field(0.85, gt=0, le=1)
    enforce_eager: bool = False
    """Skip CUDA graphs and compilation (always so on CPU)."""
    stall_seconds: float = Field(60.0, gt=0)
    """An engine that has requests and neither samples nor uses (or waits for) the processor for this long is dead, and
    so is one that computes and samples nothing for ten times as long; its worker restarts."""
    verify_seconds: float = Field(60.0, gt=0)
    """How long the verifiers may judge nothing at all; then there is no verdict. Their queue may take as long as it
    likes."""
    task_seconds: float = Field(30.0, gt=0)
    """Wait for a task before another server is asked."""


class LearnerConfig(Section):
    """Learner: optimizer, batches, weights out."""

    address: str = "127.0.0.1:0"
    ranks: int = Field(1, ge=1)
    """Processes (GPUs) that train."""
    rank_timeout_seconds: float = Field(600.0, gt=0)
    """Longest wait of one rank for another in a collective operation; then the run ends and names the rank."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    dtype: Dtype = "bfloat16"
    publish_dtype: Dtype | None = None
    """Precision of published weights; none means the rollout's."""
    lr: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    adam_epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    """Global gradient norm is clipped here."""
    groups_per_step: int = Field(32, ge=1)
    """Groups in one optimizer batch, after uninformative ones are dropped."""
    tokens_per_micro_batch: int = Field(8192, ge=8)
    """Padded tokens in one forward pass."""
    packing: bool = False
    """Pack sequences into one row (needs an attention that honours position ids); else bucket by length."""
    max_lag: int = Field(4, ge=0)
    """No token older than this many versions is trained on."""
    batches_ahead: int | None = Field(None, ge=0)
    """Batches of groups leased or queued at once, beside the one in training; none: max_lag. 0 waits for the weights
    of each step (synchronous). Few keep samples fresh, while a larger ``max_lag`` leaves room for those that take
    long."""
    max_token_lag: int | None = Field(None, ge=0)
    """Tokens older than this many versions are masked while the rest of their sequence is trained on; none: no token
    is. ``max_lag`` drops whole groups."""
    minibatches: int = Field(1, ge=1)
    """Parts that a batch of groups is cut into, each an optimizer update of its own. With more than one update a
    batch, ratios are to the policy at its start (the proximal policy), which the behaviour policy is corrected to."""
    passes: int = Field(1, ge=1)
    """Times that a batch is gone through."""
    lease_seconds: float = Field(120.0, gt=0)
    """A leased task that stands still for this long (no token, no step) goes to another worker. What moves may take as
    long as it takes."""
    max_wait_seconds: float = Field(300.0, gt=0)
    """For so long nothing may move while a batch is waited for; then the run ends and names who is missing."""
    max_group_bytes: int = Field(64 * 2**20, ge=2**16, le=2**30)
    """Largest group taken on the rollout stream; four of them may be on their way at once, over all workers."""
    chunk_bytes: int = Field(2**20, ge=4096, le=3 * 2**20)
    """Size of one chunk of weights on the policy stream."""
    ess_warn: float = Field(0.9, ge=0, le=1)
    """Warn when the effective sample size falls below this share."""
    gradient_checkpointing: bool = False
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    torch_threads: int = Field(0, ge=0)
    """CPU threads of torch; 0 decides from the machine."""


class CheckpointConfig(Section):
    """What is kept on disk."""

    every_steps: int = Field(50, ge=0)
    """Steps between checkpoints; 0 keeps only the last."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept."""


class EvaluateConfig(Section):
    """Held-out measurement before and after training."""

    problems: int = Field(200, ge=0)
    """Held-out tasks; 0 switches evaluation off."""
    samples: int = Field(1, ge=1)
    """Completions per task."""
    temperature: float = Field(1.0, ge=0)
    """0 is greedy."""
    every_steps: int = Field(0, ge=0)
    """Steps between evaluations during training; 0: only before and after."""
    from_training: bool = False
    """Draw from the splits that training draws from, to make files of samples; such a figure is no held-out one."""
    keep: int = Field(24, ge=0)
    """Tasks of a measurement whose samples are written to ``samples.jsonl``."""


class LaunchConfig(Section):
    """How the local launcher treats its processes."""

    start_seconds: float = Field(180.0, gt=0)
    """An actor must have registered within this."""
    prepare_seconds: float = Field(86400.0, gt=0)
    """[pretrain] and [sft] must have made the start checkpoint within this."""
    stop_seconds: float = Field(20.0, gt=0)
    """Grace between SIGTERM and SIGKILL."""
    restart_backoff_seconds: float = Field(0.5, gt=0)
    """First pause before a restart; doubles each time."""
    max_restarts: int = Field(5, ge=0)
    """Restarts of one actor within ten minutes before the run gives up."""
    report_every_steps: int = Field(100, ge=0)
    """Optimizer steps after which ``report.html`` is written anew, beside the run; 0: only at its end."""
    cores: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Processor cores by kind of actor, e.g. ``{ learner = [0], rollout = [1] }``; others run anywhere."""

    @model_validator(mode="after")
    def _grace_is_short(self) -> "LaunchConfig":
        if self.stop_seconds > 600:
            raise ValueError(f"launch.stop_seconds: is {self.stop_seconds}; at most 600")
        for kind, cores in self.cores.items():
            if kind not in ("hub", "environment", "verifier", "teacher", "learner", "rollout"):
                raise ValueError(f"launch.cores: names {kind!r}, which is no kind of actor; see `rlserve serve --help`")
            if not cores or min(cores) < 0:
                raise ValueError(f"launch.cores.{kind}: is {list(cores)}; give core numbers from 0")
        return self
