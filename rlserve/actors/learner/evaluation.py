"""Held-out accuracy, measured through the same stream: evaluation leases, judged by the same verifiers."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlserve.batching.summary import is_right
from rlserve.config.run import RunConfig
from rlserve.records import FinishReason, Message, Purpose, RolloutGroup, Task
from rlserve.records.lease import Lease

logger = logging.getLogger(__name__)

GREEDY = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The outcome of one measurement."""

    accuracy: float
    """Share of judged samples that were right."""
    problems: int
    samples: int
    unjudged: int
    """Samples that no verifier could judge; they count neither way."""
    by_environment: dict[str, float]
    versions: tuple[int, ...]
    """Policy versions that sampled; one when pinned."""


def evaluation_leases(config: RunConfig, name: str) -> list[Lease]:
    """Held-out tasks in proportion to the environments' weights; the same ones in every measurement."""
    chosen = [e for e in config.environments if e.share_in_evaluation > 0]
    total = sum(e.share_in_evaluation for e in chosen)
    leases: list[Lease] = []
    for environment in chosen:
        count = max(1, round(config.evaluate.problems * environment.share_in_evaluation / total))
        leases += [
            Lease(
                group_id=f"{config.name}/{name}/{environment.name}/{index}",
                environment=environment.name,
                split=environment.split if config.evaluate.from_training else environment.eval_split,
                index=index,
                seed=(config.seed * 1_000_003 + index * config.evaluate.samples) % 2**31,
                num_samples=config.evaluate.samples,
                purpose=Purpose.EVALUATE,
                limit_seconds=config.learner.lease_seconds,
                temperature=config.evaluate.temperature,
            )
            for index in range(count)
        ]
    return leases


def score(groups: Sequence[RolloutGroup]) -> Evaluation:
    """Accuracy of the groups of one measurement."""
    trajectories = [(g.task.environment, t) for g in groups for t in g.trajectories]
    judged = [(e, is_right(t)) for e, t in trajectories if t.verdict is not None and t.verdict.has_reward]
    by_environment = {
        name: _share([right for e, right in judged if e == name]) for name in sorted({e for e, _ in judged})
    }
    return Evaluation(
        accuracy=_share([right for _, right in judged]),
        problems=len(groups),
        samples=len(trajectories),
        unjudged=len(trajectories) - len(judged),
        by_environment=by_environment,
        versions=tuple(sorted({s.version for _, t in trajectories for s in t.policy_spans})),
    )


def write_samples(path: Path, when: str, groups: Sequence[RolloutGroup], *, keep: int) -> None:
    """Append all samples of the first ``keep`` tasks of a measurement, one a line."""
    with open(path, "a", encoding="utf-8") as file:
        for group in sorted(groups, key=lambda g: g.group_id)[:keep]:
            for trajectory in group.trajectories:
                verdict = trajectory.verdict
                line = {
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
                file.write(json.dumps(line) + "\n")


def prompt_text(task: Task) -> str:
    """A task's prompt as people read it."""
    if isinstance(task.prompt, str):
        return task.prompt
    return "\n".join(f"{p.role}: {p.content}" if isinstance(p, Message) else str(p) for p in task.prompt)


def _share(rights: Sequence[bool]) -> float:
    return sum(rights) / len(rights) if rights else 0.0
