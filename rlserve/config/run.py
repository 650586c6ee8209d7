"""The configuration of one run: a section per actor, and the checks between sections."""

from pydantic import Field, model_validator

from rlserve.config.actors import (
    CheckpointConfig,
    EnvironmentConfig,
    EvaluateConfig,
    HubConfig,
    LaunchConfig,
    LearnerConfig,
    ModelConfig,
    RolloutConfig,
    VerifierConfig,
)
from rlserve.config.algorithms import AlgorithmConfig, GrpoConfig
from rlserve.config.base import Section
from rlserve.config.episodes import EpisodesConfig
from rlserve.config.pretrain import PretrainConfig, SftConfig
from rlserve.config.sync import SyncConfig


class RunConfig(Section):
    """Everything a run needs; saved with the run as ``config.toml``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Directory of the run under ``directory``."""
    directory: str = "runs"
    seed: int = Field(0, ge=0)
    steps: int = Field(100, ge=0)
    """Optimizer steps."""
    stop_reward: float | None = None
    """End early once the mean training reward of the last 5 steps reaches this."""

    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig | None = None
    sft: SftConfig | None = None
    environments: tuple[EnvironmentConfig, ...] = Field(min_length=1)
    hub: HubConfig = HubConfig()
    episodes: EpisodesConfig = EpisodesConfig()
    verifier: VerifierConfig = VerifierConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    sync: SyncConfig = SyncConfig()
    algorithm: AlgorithmConfig = GrpoConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    launch: LaunchConfig = LaunchConfig()

    @property
    def max_outstanding_groups(self) -> int:
        """Groups leased or queued at once: beyond this, lag would exceed ``learner.max_lag``."""
        return self.learner.groups_per_step * (self.learner.max_lag + 1)

    @property
    def max_lag_steps(self) -> int:
        """Optimizer steps by which a token may be older than the newest weights that workers have."""
        return self.learner.max_lag * self.sync.every_steps if self.sync.every_steps else self.steps

    @model_validator(mode="after")
    def _sections_fit_together(self) -> "RunConfig":
        if bool(self.model.path) == bool(self.pretrain):
            raise ValueError(
                f"model.path: is {self.model.path!r} and [pretrain] is "
                f"{'present' if self.pretrain else 'absent'}; give exactly one of the two"
            )
        if self.rollout.max_new_tokens >= self.model.max_length:
            raise ValueError(
                f"rollout.max_new_tokens: is {self.rollout.max_new_tokens}, but the context "
                f"(model.max_length) is {self.model.max_length}; leave room for a prompt"
            )
        if self.model.max_length > self.learner.tokens_per_micro_batch:
            raise ValueError(
                f"learner.tokens_per_micro_batch: is {self.learner.tokens_per_micro_batch}, less than one "
                f"sequence of model.max_length = {self.model.max_length}; raise the former"
            )
        for problem in self.algorithm.problems(
            group_size=self.rollout.group_size, max_new_tokens=self.rollout.max_new_tokens
        ):
            raise ValueError(problem)
        if self.rollout.top_p != 1.0:
            raise ValueError(
                f"rollout.top_p: is {self.rollout.top_p}; behaviour log-probabilities are over the whole "
                "vocabulary, train with 1.0"
            )
        names = [e.name for e in self.environments]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"environments: {twice[0]!r} is there twice; give each a name, and the plug-in as `plugin`"
            )
        if sum(e.weight for e in self.environments) <= 0:
            raise ValueError("environments: all weights are 0; give at least one a positive weight")
        return self
