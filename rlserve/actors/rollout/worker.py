"""Turns one lease into one finished group: task, prompt tokens, samples, verdicts, teachers' scores."""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from rlserve.actors.rollout.episodes.episode import EpisodeWorker, Verify
from rlserve.actors.rollout.stages import Stages, WorkProgress
from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.engines.base import RolloutEngine, SamplingChoice
from rlserve.errors import InvalidRequest, TaskRefused
from rlserve.records import (
    GivenCompletion,
    Lease,
    ObjectiveWeights,
    PreferenceRole,
    Purpose,
    RolloutGroup,
    Sample,
    Task,
    Trajectory,
)
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.prompts import Prompt, encode_prompt, num_characters
from rlserve.tokens.tokenizer import fingerprint

logger = logging.getLogger(__name__)

T = TypeVar("T")
LONG_CHARACTERS = 100_000
"""Longer text is tokenised in a thread: it takes tens of milliseconds, in which the event loop sends no heartbeat."""

GetTask = Callable[[Lease], Awaitable[Task]]
ScoreWithTeachers = Callable[[Lease, Task, Sequence[Trajectory]], Awaitable[tuple[Trajectory, ...]]]


ENGINE = "engine"
EPISODES = "episodes of environment"
"""Stages of a lease. While the engine samples for an episode, the stage is the engine."""


@dataclass(slots=True)
class WorkerCounters:
    """Counts since the worker started."""

    finished_groups: int = 0
    sampled_tokens: int = 0
    mixed_version_sequences: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def tokens_per_second(self) -> float:
        """Mean since the start."""
        return self.sampled_tokens / max(time.monotonic() - self.started, 1e-9)


class GroupWorker:
    """Turns leases into groups. The stream to the learner is in ``stream``.

    Example::

        worker = GroupWorker(engine=engine, tokens=tokens, get_task=TaskClient(...), verify=VerifierPoolClient(...),
                             rollout=config.rollout, model=config.model, worker_id="rollout-0", run_id="r")
        group = await worker.work(lease)
    """

    def __init__(
        self,
        *,
        engine: RolloutEngine,
        tokens: ModelTokens,
        get_task: GetTask,
        verify: Verify,
        rollout: RolloutConfig,
        model: ModelConfig,
        worker_id: str,
        run_id: str,
        episodes: EpisodeWorker | None = None,
        score_with_teachers: ScoreWithTeachers | None = None,
    ) -> None:
        """``episodes`` plays multi-turn tasks; without it they are refused."""
        self._score_with_teachers = score_with_teachers
        self._episodes = episodes
        self._engine = engine
        self._tokens = tokens
        self._get_task = get_task
        self._verify = verify
        self._rollout = rollout
        self._model = model
        self._worker_id = worker_id
        self._run_id = run_id
        self.tokenizer_fingerprint = fingerprint(tokens.tokenizer)
        self.counters = WorkerCounters()
        self._warned: set[str] = set()
        self._stages = Stages()

    def progress(self, group_id: str) -> WorkProgress:
        """Progress of the work on a lease."""
        stage = self._stages.stage(group_id)
        if stage.startswith(EPISODES) and self._engine.runs(group_id):
            stage = ENGINE
        return WorkProgress(self._engine.tokens_of(group_id), self._stages.steps(group_id), stage)

    async def work(self, lease: Lease) -> RolloutGroup:
        """Sample and verify one task.

        Raises TaskRefused when no worker can ever sample the task, Unavailable or DeadlineExceeded when no server
        gives it, EngineDied when this process cannot generate any more. A verifier that cannot judge yields "no
        verdict", not an error.
        """
        with self._stages.working_on(lease.group_id):
            try:
                return await self._group(lease)
            finally:
                # Not earlier: the counts of finished samples are progress until the verdicts are there.
                self._engine.forget(lease.group_id)

    async def _group(self, lease: Lease) -> RolloutGroup:
        self._stages.enter(lease.group_id, f"environment {lease.environment!r}")
        task = await self._get_task(lease)
        # The environment's usual sampling applies where the task sets nothing.
        task = replace(task, sampling=task.sampling.or_else(lease.usual_sampling))
        # An evaluation samples all the same: completions that were given measure nothing.
        if task.given and lease.purpose is Purpose.TRAIN:
            # Room for one token: _check_room measures the longest completion itself.
            trajectories = await self._given(lease, task, await self._prompt(task, max_new_tokens=1))
        else:
            sampling = self._sampling(lease, task)
            prompt = await self._prompt(task, max_new_tokens=sampling.max_new_tokens)
            sample = self._played if task.multi_turn else self._completed
            trajectories = await sample(lease, task, prompt, sampling)
        if self._score_with_teachers is not None:
            self._stages.enter(lease.group_id, "teachers")
            trajectories = await self._score_with_teachers(lease, task, trajectories)
        self._count(trajectories)
        return RolloutGroup(
            group_id=lease.group_id,
            task=task,
            trajectories=trajectories,
            worker_id=self._worker_id,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            run_id=self._run_id,
            purpose=lease.purpose,
        )

    async def _prompt(self, task: Task, *, max_new_tokens: int) -> Prompt:
        encode = functools.partial(
            encode_prompt, self._tokens.tokenizer, task, max_tokens=self._model.max_length - max_new_tokens
        )
        return await _beside_the_loop(encode, characters=num_characters(task))

    async def _played(
        self, lease: Lease, task: Task, prompt: Prompt, sampling: SamplingChoice
    ) -> tuple[Trajectory, ...]:
        if self._episodes is None:
            raise InvalidRequest(f"task.multi_turn: of {task.task_id!r} is set, but this worker plays no episodes")
        self._stages.enter(lease.group_id, f"{EPISODES} {task.environment!r}")
        return await self._episodes.trajectories(lease, task, prompt, sampling)

    async def _completed(
        self, lease: Lease, task: Task, prompt: Prompt, sampling: SamplingChoice
    ) -> tuple[Trajectory, ...]:
        started = time.time()
        self._stages.enter(lease.group_id, ENGINE)
        samples = await self._engine.generate(
            prompt.token_ids, n=lease.num_samples, sampling=sampling, seed=lease.seed, request_id=lease.group_id
        )
        sampled = time.time()
        texts = [self._tokens.text(sample.token_ids.tolist()) for sample in samples]
        self._stages.enter(lease.group_id, f"verifier {task.verifier!r}")
        verdicts = await self._verify(task, prompt.text, texts)
        finished = time.time()
        return tuple(
            Trajectory.single_turn(
                prompt.token_ids,
                sample,
                index=index,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=lease.seed + index,
            ).judged(
                verdict,
                completion=text,
                started=started,
                finished=finished,
                verification_seconds=finished - sampled,
            )
            for index, (sample, text, verdict) in enumerate(zip(samples, texts, verdicts, strict=True))
        )

    async def _given(self, lease: Lease, task: Task, prompt: Prompt) -> tuple[Trajectory, ...]:
        """Trajectories of the completions that came with the task; nothing is sampled."""
        started = time.time()
        completions = await _beside_the_loop(
            lambda: [self._tokens.given(task, given.text) for given in task.given],
            characters=sum(len(given.text) for given in task.given),
        )
        self._check_room(task, prompt, completions)
        # Decoded like sampled ones: verifiers must not see an end token that the data set spelled out.
        texts = [self._tokens.text(ids) for ids in completions]
        self._stages.enter(lease.group_id, f"verifier {task.verifier!r}")
        verdicts = await self._verify(task, prompt.text, texts) if task.verifier else [None] * len(texts)
        finished = time.time()
        return tuple(
            replace(
                Trajectory.single_turn(
                    prompt.token_ids, Sample.given(ids, version=self._engine.version), index=index
                ).judged(verdict, completion=given.text, started=started, finished=finished),
                objective_weights=_supervised(given),
                preference_role=_ROLES[given.chosen],
                pair_index=given.pair,
            )
            for index, (given, ids, verdict) in enumerate(zip(task.given, completions, verdicts, strict=True))
        )

    def _check_room(self, task: Task, prompt: Prompt, completions: Sequence[Sequence[int]]) -> None:
        longest, length = max(map(len, completions)), len(prompt.token_ids)
        if length + longest > self._model.max_length:
            raise TaskRefused(
                f"task.given: a completion of {task.task_id!r} has {longest} tokens and its prompt {length}, but "
                f"model.max_length is {self._model.max_length}; raise it, or shorten the text",
                field="task.given",
                reason="completion_too_long",
            )

    def _sampling(self, lease: Lease, task: Task) -> SamplingChoice:
        asked = task.sampling
        training = lease.purpose is Purpose.TRAIN
        if training and asked.top_p not in (None, self._rollout.top_p) and task.environment not in self._warned:
            self._warned.add(task.environment)
            logger.warning(
                "task.sampling.top_p: is %s in environment %r; training samples with rollout.top_p = %s, since "
                "log-probabilities are over the whole vocabulary",
                asked.top_p,
                task.environment,
                self._rollout.top_p,
            )
        return SamplingChoice(
            temperature=_first(lease.temperature, asked.temperature, self._rollout.temperature),
            # Training needs log-probabilities over the whole vocabulary, so a task cannot narrow top_p there.
            top_p=_first(None if training else asked.top_p, self._rollout.top_p),
            max_new_tokens=int(_first(lease.max_new_tokens, asked.max_new_tokens, self._rollout.max_new_tokens)),
            stop_token_ids=tuple(dict.fromkeys((*self._tokens.ends_of(task), *asked.stop_token_ids))),
            stop=asked.stop,
        )

    def _count(self, trajectories: Sequence[Trajectory]) -> None:
        self.counters.finished_groups += 1
        self.counters.sampled_tokens += sum(t.num_sampled for t in trajectories)
        self.counters.mixed_version_sequences += sum(len(t.policy_spans) > 1 for t in trajectories)


async def _beside_the_loop(work: Callable[[], T], *, characters: int) -> T:
    """The result of ``work()``, in a thread when the text is long enough to delay the heartbeat."""
    return work() if characters <= LONG_CHARACTERS else await asyncio.to_thread(work)


_ROLES = {True: PreferenceRole.CHOSEN, False: PreferenceRole.REJECTED, None: PreferenceRole.NONE}


def _supervised(given: GivenCompletion) -> tuple[ObjectiveWeights, ...]:
    if not given.supervised_weight:
        return ()
    return (ObjectiveWeights(objective="supervised", weights=np.array([given.supervised_weight], dtype=np.float32)),)


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
