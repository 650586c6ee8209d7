"""Held-out accuracy and reward: the leases of an evaluation, and the score of their groups."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlserve.batching.summary import is_right
from rlserve.config.run import RunConfig
from rlserve.records import FinishReason, Message, Purpose, RolloutGroup, Task
from rlserve.records.lease import Lease

logger = logging.getLogger(__name__)

GREEDY = 0.0  # the temperature that vLLM takes for argmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The outcome of one evaluation."""

    accuracy: float | None
    """Share of judged samples that were right; None when no sample was judged."""
    reward_mean: float | None
    """Of judged samples; None when no sample was judged."""
    problems: int
    samples: int
    unjudged: int
    """Samples without a verdict; they count neither as right nor as wrong."""
    missing: int = 0
    """Problems asked for whose groups were not received."""
    by_environment: Mapping[str, float | None]
    """Accuracy by environment; None when no sample of it was judged."""
    versions: tuple[int, ...]
    """Policy versions that sampled; one when pinned."""

    @property
    def text(self) -> str:
        """For people: what was measured, and of how much."""
        if self.accuracy is None or self.reward_mean is None:
            return f"no verdict: none of {self.samples} samples was judged{self._missing}"
        judged = self.samples - self.unjudged
        of = f" (of {judged} judged; {self.unjudged} without a verdict)" if self.unjudged else ""
        return f"{self.accuracy:.3f}{of}, mean reward {self.reward_mean:.4g}{self._missing}"

    @property
    def _missing(self) -> str:
        return f"; {self.missing} of {self.problems + self.missing} problems never came" if self.missing else ""

    def metrics(self) -> dict[str, float]:
        """The ``evaluate/`` metrics; those without a value are left out."""
        measured = {
            "evaluate/accuracy": self.accuracy,
            "evaluate/reward_mean": self.reward_mean,
            **{f"evaluate/accuracy/{name}": value for name, value in self.by_environment.items()},
        }
        return {
            "evaluate/problems": float(self.problems),
            "evaluate/samples": float(self.samples),
            "evaluate/no_verdict": float(self.unjudged),
            **{name: value for name, value in measured.items() if value is not None},
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data, for events, the summary and checkpoints."""
        return {
            "accuracy": self.accuracy,
            "reward_mean": self.reward_mean,
            "problems": self.problems,
            "samples": self.samples,
            "unjudged": self.unjudged,
            "missing": self.missing,
            "by_environment": dict(self.by_environment),
            "versions": list(self.versions),
            "text": self.text,
        }


def evaluation_leases(config: RunConfig, name: str) -> list[Lease]:
    """Held-out tasks in proportion to the environments' weights; the same ones in every evaluation."""
    chosen = [e for e in config.environments if e.share_in_evaluation > 0]
    total = sum(e.share_in_evaluation for e in chosen)
    leases: list[Lease] = []
    for environment in chosen:
        # At least one, so that every chosen environment has an accuracy.
        count = max(1, round(config.evaluate.problems * environment.share_in_evaluation / total))
        leases += [
            Lease(
                group_id=f"{config.name}/{name}/{environment.name}/{index}",
                environment=environment.name,
                split=environment.split if config.evaluate.from_training else environment.eval_split,
                index=index,
                # Sample i is drawn with seed + i: tasks lie ``samples`` apart, so that no two samples share a seed.
                seed=(config.seed * 1_000_003 + index * config.evaluate.samples) % 2**31,
                num_samples=config.evaluate.samples,
                purpose=Purpose.EVALUATE,
                limit_seconds=config.learner.lease_seconds,
                temperature=config.evaluate.temperature,
            )
            for index in range(count)
        ]
    return leases


def score(groups: Sequence[RolloutGroup], *, asked: int | None = None) -> Evaluation:
    """Accuracy and reward of the groups of one evaluation of ``asked`` problems (None: as many as there are)."""
    trajectories = [(g.task.environment, t) for g in groups for t in g.trajectories]
    judged = [(e, t, t.verdict.reward) for e, t in trajectories if t.verdict is not None and t.verdict.has_reward]
    by_environment = {
        name: _mean([float(is_right(t)) for e, t, _ in judged if e == name])
        for name in sorted({e for e, _ in trajectories})
    }
    return Evaluation(
        accuracy=_mean([float(is_right(t)) for _, t, _ in judged]),
        reward_mean=_mean([reward for _, _, reward in judged]),
        problems=len(groups),
        samples=len(trajectories),
        unjudged=len(trajectories) - len(judged),
        missing=(len(groups) if asked is None else asked) - len(groups),
        by_environment=by_environment,
        versions=tuple(sorted({s.version for _, t in trajectories for s in t.policy_spans})),
    )


def sample_rows(when: str, groups: Sequence[RolloutGroup], *, keep: int) -> list[dict[str, Any]]:
    """All samples of the first ``keep`` tasks of an evaluation."""
    return [
        {
            "when": when,
            "environment": group.task.environment,
            "task_id": group.task.task_id,
            "prompt": prompt_text(group.task),
            "completion": trajectory.completion,
            "reward": verdict.reward if verdict and verdict.has_reward else None,
            "right": is_right(trajectory),
            "truncated": trajectory.finish_reason is FinishReason.LENGTH,
            "reason": verdict.reason if verdict else "",
        }
        # By id, so that each evaluation keeps samples of the same tasks.
        for group in sorted(groups, key=lambda g: g.group_id)[:keep]
        for trajectory in group.trajectories
        for verdict in [trajectory.verdict]
    ]


def prompt_text(task: Task) -> str:
    """A task's prompt as plain text."""
    if isinstance(task.prompt, str):
        return task.prompt
    return "\n".join(f"{p.role}: {p.content}" if isinstance(p, Message) else str(p) for p in task.prompt)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
