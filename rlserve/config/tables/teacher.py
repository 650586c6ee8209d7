"""``[[teachers]]``: frozen models that score tokens with log-probabilities."""

from typing import Literal

from pydantic import Field, model_validator

from rlserve.config.base import Section
from rlserve.config.tables.model import TemplateArguments
from rlserve.config.tables.pretrain import PretrainConfig, SftConfig

START = "start"
"""Value of ``teachers.model`` for the start checkpoint of the run itself."""


class TeacherConfig(Section):
    """One teacher: a frozen model that scores tokens with log-probabilities."""

    name: str = Field(min_length=1)
    """Name under which it is served, by one or several servers."""
    model: str = ""
    """Hugging Face checkpoint directory or hub name, a run directory (its newest checkpoint), or ``"start"`` (the
    run's own start checkpoint). Empty: its servers join from elsewhere."""
    pretrain: PretrainConfig | None = None
    """Make its model here, instead of ``model``."""
    sft: SftConfig | None = None
    """Fine-tune it here first."""
    servers: int = Field(1, ge=0)
    """Servers that the launcher starts; more may join from elsewhere."""
    environments: tuple[str, ...] = ()
    """Environments whose samples it scores; empty: all."""
    weight: float = Field(1.0, gt=0)
    """Share of the groups it scores, relative to the other teachers of an environment."""
    engine: str = "transformers"
    """What runs it: ``"transformers"``, a batched forward pass (the faster on CPU), or ``"vllm"``, its
    ``prompt_logprobs``."""
    address: str = "127.0.0.1:0"
    """Address of a server; port 0 takes a free one each."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision in which it computes."""
    max_length: int = Field(2048, ge=8)
    """Longest sequence it scores, in tokens."""
    chat_template_kwargs: TemplateArguments = Field(default_factory=dict)
    """Arguments of its chat template, for a teacher with a tokenizer of its own."""
    max_k: int = Field(64, ge=0)
    """Largest top k it returns."""
    tokens_per_batch: int = Field(8192, ge=8)
    """Padded tokens in one forward pass."""
    max_queue: int = Field(4096, ge=1)
    """Sequences waiting or being scored; one more is refused, and the worker asks another server."""
    cache_bytes: int = Field(64 * 2**20, ge=0)
    """Size of the cache of scores, keyed by content; 0 disables it."""
    score_seconds: float = Field(60.0, gt=0)
    """Longest wait for the scores of one group; then another server is asked, or the group has no scores."""
    kv_cache_bytes: int = Field(0, ge=0)
    """Of the vLLM engine; 0 as for rollout workers."""
    torch_threads: int = Field(0, ge=0)
    """CPU threads of torch; 0: torch's default."""

    @property
    def is_made_here(self) -> bool:
        """Whether the run prepares its model."""
        return self.pretrain is not None or self.sft is not None

    @model_validator(mode="after")
    def _a_sequence_fits_a_batch(self) -> "TeacherConfig":
        if self.max_length > self.tokens_per_batch:
            raise ValueError(
                f"teachers.tokens_per_batch: is {self.tokens_per_batch} for {self.name!r}, less than one sequence of "
                f"max_length = {self.max_length}; raise the former"
            )
        # [teachers.sft] may stand beside either: it goes on from the model that the other gives.
        if self.model and self.pretrain:
            raise ValueError(
                f"teachers.model: is {self.model!r} for {self.name!r}, which has [teachers.pretrain] too; give one of "
                "the two"
            )
        # A server without a model could only fail, and be started again until the launcher gives up.
        if self.servers and not (self.model or self.pretrain):
            raise ValueError(
                f"teachers.model: is empty for {self.name!r}, of which {self.servers} servers are to be started; name "
                "a checkpoint, give [teachers.pretrain], or set servers = 0 when they join from elsewhere"
            )
        return self
