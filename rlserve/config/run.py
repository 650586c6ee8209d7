"""The configuration of one run: one field a table, and the checks between tables."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from rlserve.config.algorithms import DEFAULT, SECTIONS, AlgorithmConfig
from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.base import Section
from rlserve.config.tables.environment import EnvironmentConfig, Rewards
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.config.tables.evaluate import EvaluateConfig
from rlserve.config.tables.hub import HubConfig
from rlserve.config.tables.launch import LaunchConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.output import CheckpointConfig, TrackerConfig
from rlserve.config.tables.pretrain import PretrainConfig, SftConfig
from rlserve.config.tables.reference import ReferenceConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.config.tables.store import StoreConfig
from rlserve.config.tables.sync import SyncConfig
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.config.waits import wait_problems
from rlserve.nearest import known_names


class RunConfig(Section):
    """Everything that a run needs; saved in its directory as ``config.toml``."""

    # It names a directory, and is an argument of commands: no slash, no leading dot or dash.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Directory of the run under ``directory``."""
    directory: str = "runs"
    """Where runs are kept."""
    seed: int = Field(0, ge=0)
    """Seed of the tasks, the samples, the pretraining and the order of training."""
    steps: int = Field(100, ge=0)
    """Optimizer steps."""
    stop_reward: float | None = None
    """End early once the mean training reward of a step, as the median over the last 5 steps, reaches this."""

    stop_groups: int | None = Field(None, ge=1)
    """End early once this many groups are received: a budget of samples."""

    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig | None = None
    sft: SftConfig | None = None
    environments: tuple[EnvironmentConfig, ...] = Field(min_length=1)
    """The mixture. ``environment = "NAME"`` is short for a single one of that name, or of a class in a file of yours
    (``"my_env.py:Env"``)."""
    reward: Rewards = ()
    """Functions of yours that reward the tasks of all environments without ``reward`` of their own, e.g.
    ``"my_reward.py:digits"``; several may have weights."""
    hub: HubConfig = HubConfig()
    episodes: EpisodesConfig = EpisodesConfig()
    verifier: VerifierConfig = VerifierConfig()
    teachers: tuple[TeacherConfig, ...] = ()
    reference: ReferenceConfig = ReferenceConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    sync: SyncConfig = SyncConfig()
    algorithm: AlgorithmConfig = SECTIONS[DEFAULT]()
    """``algorithm = "NAME"`` is short for a table with that ``type`` alone."""
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    trackers: tuple[TrackerConfig, ...] = ()
    store: StoreConfig = StoreConfig()
    launch: LaunchConfig = LaunchConfig()

    @property
    def rewarded_environments(self) -> tuple[EnvironmentConfig, ...]:
        """The environments, each with the functions that reward its tasks."""
        if not self.reward:
            return self.environments
        return tuple(e if e.reward else e.model_copy(update={"reward": self.reward}) for e in self.environments)

    @property
    def verifier_options(self) -> dict[str, dict[str, Any]]:
        """``verifier.options``, and those of the verifiers that call the functions of ``reward``."""
        rewarded = (e for e in self.rewarded_environments if e.reward)
        functions = {e.verifier: {"functions": [f.model_dump() for f in e.reward]} for e in rewarded}
        return {**self.verifier.options, **functions}

    @property
    def max_outstanding_groups(self) -> int:
        """Groups leased or queued at once, beside those in training if ``leases_ahead``."""
        # Even a synchronous run needs one batch of leases to train on.
        return self.learner.groups_per_step * max(self._batches_ahead, 1)

    @property
    def leases_ahead(self) -> bool:
        """Whether groups are made while others are in training."""
        return self._batches_ahead > 0

    @property
    def _batches_ahead(self) -> int:
        """More than ``max_lag`` batches ahead would exceed the lag."""
        asked = self.learner.batches_ahead
        return self.learner.max_lag if asked is None else asked

    @property
    def max_lag_steps(self) -> int:
        """Optimizer steps by which a token may be older than the newest weights at the workers."""
        # Offline, the workers keep the weights of the start: a token is at most as old as the run.
        return self.learner.max_lag * self.sync.every_steps if self.sync.every_steps else self.steps

    @property
    def distillation(self) -> DistillConfig | None:
        """Settings of distillation, alone or in a mixture; None without."""
        algorithm = self.algorithm
        # A mixture's teachers must pass the same checks as those of `distill` alone.
        if isinstance(algorithm, MixedConfig):
            return algorithm.distill
        return algorithm if isinstance(algorithm, DistillConfig) else None

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, values: Any) -> Any:
        """Short forms in full, so that the rest of the program and ``config.toml`` have one form alone."""
        if not isinstance(values, dict):
            return values
        full = dict(values)
        if isinstance(full.get("algorithm"), str):
            full["algorithm"] = {"type": full["algorithm"]}
        if isinstance(full.get("trackers"), list | tuple):
            full["trackers"] = [{"type": one} if isinstance(one, str) else one for one in full["trackers"]]
        if isinstance(full.get("environment"), str):
            name = full.pop("environment")
            if "environments" in full:
                raise ValueError(f"environment: is {name!r}, and [[environments]] are given; leave one of the two out")
            full["environments"] = [{"name": name}]
        return full

    @model_validator(mode="after")
    def _sections_fit_together(self) -> "RunConfig":
        # Both would leave open which of the two models is trained.
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
        for index, environment in enumerate(self.environments):
            asked = environment.sampling.max_new_tokens
            if asked is not None and asked >= self.model.max_length:
                raise ValueError(
                    f"environments.{index}.sampling.max_new_tokens: is {asked}, but the context (model.max_length) is "
                    f"{self.model.max_length}; leave room for a prompt"
                )
        # A sequence is never cut over two forward passes.
        if self.model.max_length > self.learner.tokens_per_micro_batch:
            raise ValueError(
                f"learner.tokens_per_micro_batch: is {self.learner.tokens_per_micro_batch}, less than one "
                f"sequence of model.max_length = {self.model.max_length}; raise the former"
            )
        # Checks between tables belong here: a section knows only its own fields.
        for problem in self.algorithm.problems(
            group_size=self.rollout.group_size, max_new_tokens=self.rollout.max_new_tokens
        ):
            raise ValueError(problem)
        # Under top_p the sampler renormalises over the tokens that it keeps: the importance ratio would compare two
        # different distributions, and be off even with equal weights.
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
        for problem in set_problems(self):
            raise ValueError(problem)
        if self.evaluate.problems and not any(e.share_in_evaluation for e in self.environments):
            raise ValueError(
                f"evaluate.problems: is {self.evaluate.problems}, but no environment has an eval_weight above 0; set "
                "it to 0, or give one an eval_weight"
            )
        learner = self.learner
        if learner.batches_ahead is not None and learner.batches_ahead > learner.max_lag:
            raise ValueError(
                f"learner.batches_ahead: is {learner.batches_ahead}, but with learner.max_lag = {learner.max_lag} more "
                "than that would only grow stale; lower it, or raise max_lag"
            )
        for problem in (
            *teacher_problems(self),
            *lora_problems(self),
            *wait_problems(self.learner, self.rollout, self.episodes, self.teachers),
        ):
            raise ValueError(problem)
        return self


def set_problems(config: RunConfig) -> Iterator[str]:
    """Contradictions between evaluations and environments, as messages "field: what it was; what to do"."""
    by_name = {environment.name: environment for environment in config.environments}
    for index, part in enumerate(config.evaluate.sets):
        where = f"evaluate.sets.{index}"
        environment = by_name.get(part.environment)
        if environment is None:
            known = known_names(part.environment, by_name)
            yield f"{where}.environment: {part.environment!r} is none of this run{known}"
        elif part.split in (environment.levels or (environment.split,)):
            yield f"{where}.split: is {part.split!r}, which training draws from; give a split of its own"
        if part.name in by_name:
            yield f"{where}.name: {part.name!r} is an environment, which is measured under that name; give another"
    _, _, name = config.evaluate.keep_best.partition("/")
    names = [*by_name, *(part.name for part in config.evaluate.sets)]
    if name and name not in names:
        yield f"evaluate.keep_best: {name!r} is no set and no environment{known_names(name, names)}"


def lora_problems(config: RunConfig) -> Iterator[str]:
    """What ``[learner.lora]`` cannot go with, as messages "field: what it was; what to do"."""
    if config.learner.lora is None:
        return
    if config.reference.refresh_every_syncs:
        yield (
            f"reference.refresh_every_syncs: is {config.reference.refresh_every_syncs} with [learner.lora], where the "
            "reference is the model without its adapters; leave it out"
        )
    if config.rollout.tensor_parallel > 1:
        yield (
            f"rollout.tensor_parallel: is {config.rollout.tensor_parallel} with [learner.lora], whose adapters are "
            "merged into a model on one GPU; set it to 1"
        )


def teacher_problems(config: RunConfig) -> Iterator[str]:
    """Contradictions between teachers, algorithm and model, as messages "field: what it was; what to do"."""
    names = [teacher.name for teacher in config.teachers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"teachers: {twice[0]!r} is there twice; for several servers of one teacher set `servers`"
    environments = {environment.name for environment in config.environments}
    for teacher in config.teachers:
        if unknown := sorted(set(teacher.environments) - environments):
            known = ", ".join(sorted(environments))
            yield f"teachers.environments: of {teacher.name!r} names {unknown[0]!r}; known are {known}"
        # The teacher would refuse the longest samples, and only those: a bias of length.
        if teacher.max_length < config.model.max_length:
            yield (
                f"teachers.max_length: of {teacher.name!r} is {teacher.max_length}, less than model.max_length = "
                f"{config.model.max_length}; raise the former"
            )
    if config.reference.teacher and config.reference.teacher not in names:
        yield f"reference.teacher: is {config.reference.teacher!r}, which is not in [[teachers]]; add it there"
    distill = config.distillation
    if distill is None:
        return
    # The reference's scores are for the divergence; nothing is distilled from them.
    teachers = [teacher for teacher in config.teachers if teacher.name != config.reference.teacher]
    if not teachers:
        kind = config.algorithm.type
        yield f"teachers: there are none, but algorithm.type = {kind!r} distils from one; add [[teachers]]"
    for teacher in teachers:
        if distill.estimator == "top_k" and distill.k > teacher.max_k:
            yield (
                f"algorithm.k: is {distill.k}, but teacher {teacher.name!r} gives at most teachers.max_k = "
                f"{teacher.max_k}; lower the one or raise the other"
            )
        # vLLM's prompt_logprobs are of the logits as they are, whatever temperature the request names.
        sampled_at = {e.sampling.temperature or config.rollout.temperature for e in config.environments}
        asked = distill.temperature if distill.estimator == "top_k" else max(sampled_at, key=lambda t: abs(t - 1))
        if teacher.engine == "vllm" and asked != 1.0:
            yield (
                f"teachers.engine: of {teacher.name!r} is 'vllm', which scores at temperature 1, but {asked:g} is "
                "asked for; take 'transformers'"
            )
