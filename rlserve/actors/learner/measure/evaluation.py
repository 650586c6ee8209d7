"""The leases of a held-out evaluation, and what its groups measure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlserve.actors.learner.measure.estimators import answer_of, bootstrap, maj_at_k, pass_at_k, wilson
from rlserve.batching.summary import is_right, is_scored
from rlserve.config.run import RunConfig
from rlserve.records import FinishReason, Message, Purpose, RolloutGroup, Task, Trajectory
from rlserve.records.lease import Lease


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of an evaluation and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


Measures = Mapping[str, Measure]
"""By name, ``accuracy``, ``reward_mean``, ``avg@n``, ``pass@k``, ``maj@k``; those without data are left out,
and without accuracy also those that ask what is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The outcome of one evaluation."""

    measures: Measures
    """Over the mixture, or over all sets when ``evaluate.problems`` is 0."""
    by_set: Mapping[str, Measures] = field(default_factory=dict)
    """By environment of the mixture and by name of ``[[evaluate.sets]]``."""
    problems: int
    samples: int
    unjudged: int
    """Samples without a verdict; they count neither as right nor as wrong."""
    missing: int = 0
    """Problems asked for whose groups were not received."""
    versions: tuple[int, ...]
    """Policy versions that sampled; one when pinned."""

    @property
    def accuracy(self) -> float | None:
        """Share of judged samples that were right; None when none was judged, or rewards are on a scale."""
        return self.value("accuracy")

    @property
    def reward_mean(self) -> float | None:
        """Of judged samples; None when no sample was judged."""
        return self.value("reward_mean")

    def value(self, name: str) -> float | None:
        """A measure by its name, ``"pass@8"``, or of one set, ``"pass@8/aime"``; None without data."""
        measure, _, part = name.partition("/")
        found = (self.by_set.get(part, {}) if part else self.measures).get(measure)
        return None if found is None else found.value

    @property
    def text(self) -> str:
        """For people: what was measured, and of how much. Accuracy first, or else the mean reward."""
        if not self.measures:
            return f"no verdict: none of {self.samples} samples was judged{self._missing}"
        judged = self.samples - self.unjudged
        of = f" (of {judged} judged; {self.unjudged} without a verdict)" if self.unjudged else ""
        if "accuracy" not in self.measures:
            return f"{self.measures['reward_mean']}{of}{self._missing}"
        reward = f"mean reward {self.measures['reward_mean'].value:.4g}"
        more = [f"{name} {measure}" for name, measure in self.measures.items() if "@" in name]
        return f"{self.measures['accuracy']}{of}, {', '.join([reward, *more])}{self._missing}"

    @property
    def _missing(self) -> str:
        return f"; {self.missing} of {self.problems + self.missing} problems never came" if self.missing else ""

    def metrics(self) -> dict[str, float]:
        """The ``evaluate/`` metrics; those without a value are left out."""
        numbers = {
            "evaluate/problems": float(self.problems),
            "evaluate/samples": float(self.samples),
            "evaluate/no_verdict": float(self.unjudged),
        }
        for part, measures in (("", self.measures), *((f"/{name}", found) for name, found in self.by_set.items())):
            for name, measure in measures.items():
                numbers[f"evaluate/{name}{part}"] = measure.value
                numbers[f"evaluate/low/{name}{part}"] = measure.low
                numbers[f"evaluate/high/{name}{part}"] = measure.high
        return numbers

    def to_json(self) -> dict[str, Any]:
        """Plain data, for events, the summary and checkpoints."""
        return {
            "accuracy": self.accuracy,
            "reward_mean": self.reward_mean,
            "measures": _plain(self.measures),
            "by_set": {name: _plain(found) for name, found in self.by_set.items()},
            "problems": self.problems,
            "samples": self.samples,
            "unjudged": self.unjudged,
            "missing": self.missing,
            "versions": list(self.versions),
            "text": self.text,
        }


def _plain(measures: Measures) -> dict[str, dict[str, float]]:
    return {name: {"value": m.value, "low": m.low, "high": m.high} for name, m in measures.items()}


@dataclass(frozen=True, slots=True)
class Part:
    """Tasks of one environment that are measured together."""

    name: str
    environment: str
    split: str
    problems: int
    samples: int
    temperature: float
    is_mixture: bool
    """Whether it is an environment's share of the mixture, and no set of its own."""


def parts_of(config: RunConfig) -> list[Part]:
    """The environments in proportion to their weights, then the sets."""
    asked = config.evaluate
    chosen = [e for e in config.environments if e.share_in_evaluation > 0] if asked.problems else []
    total = sum(e.share_in_evaluation for e in chosen)
    parts = [
        Part(
            e.name,
            e.name,
            e.split if asked.from_training else e.eval_split,
            # At least one, so that every chosen environment has an accuracy.
            max(1, round(asked.problems * e.share_in_evaluation / total)),
            asked.samples,
            asked.temperature,
            True,
        )
        for e in chosen
    ]
    splits = {e.name: e.eval_split for e in config.environments}
    for given in asked.sets:
        samples = asked.samples if given.samples is None else given.samples
        temperature = asked.temperature if given.temperature is None else given.temperature
        split = given.split or splits[given.environment]
        parts.append(Part(given.name, given.environment, split, given.problems, samples, temperature, False))
    return parts


def evaluation_leases(config: RunConfig, name: str) -> list[Lease]:
    """The tasks of all parts; the same ones in every evaluation."""
    return [
        Lease(
            group_id=f"{config.name}/{name}/{part.name}/{index}",
            environment=part.environment,
            split=part.split,
            index=index,
            # Sample i is drawn with seed + i: tasks lie ``samples`` apart, so that no two samples share a seed.
            seed=(config.seed * 1_000_003 + index * part.samples) % 2**31,
            num_samples=part.samples,
            purpose=Purpose.EVALUATE,
            limit_seconds=config.learner.lease_seconds,
            temperature=part.temperature,
        )
        for part in parts_of(config)
        for index in range(part.problems)
    ]


def score(
    groups: Sequence[RolloutGroup],
    *,
    asked: int | None = None,
    k: Sequence[int] = (),
    parts: Sequence[Part] = (),
) -> Evaluation:
    """What the groups of one evaluation of ``asked`` problems measure (None: as many as there are).

    ``k`` are those of pass@k and maj@k. A group belongs to the part that its id names, or else to its environment.
    """
    known = {part.name: part for part in parts}
    by_part: dict[str, list[RolloutGroup]] = {}
    for group in groups:
        by_part.setdefault(_part_of(group, known), []).append(group)
    mixed = [g for name, found in by_part.items() for g in found if name not in known or known[name].is_mixture]
    trajectories = [t for g in groups for t in g.trajectories]
    return Evaluation(
        measures=measure(mixed or groups, k),
        by_set={name: measure(by_part[name], k) for name in sorted(by_part)},
        problems=len(groups),
        samples=len(trajectories),
        unjudged=sum(t.verdict is None or not t.verdict.has_reward for t in trajectories),
        missing=(len(groups) if asked is None else asked) - len(groups),
        versions=tuple(sorted({s.version for t in trajectories for s in t.policy_spans})),
    )


def _part_of(group: RolloutGroup, known: Mapping[str, Part]) -> str:
    # RUN/WHEN/PART/INDEX, of which only the name of a part may have a slash.
    name = "/".join(group.group_id.split("/")[2:-1])
    return name if name in known else group.task.environment


def measure(groups: Sequence[RolloutGroup], k: Sequence[int] = ()) -> Measures:
    """All measures of some problems; empty when no sample was judged."""
    judged = [[t for t in group.trajectories if t.verdict is not None and t.verdict.has_reward] for group in groups]
    judged = [samples for samples in judged if samples]
    if not judged:
        return {}
    sizes = np.array([len(samples) for samples in judged], dtype=np.float64)  # [P]
    rewards = np.array([sum(t.verdict.reward for t in samples if t.verdict) for samples in judged])
    reward_mean = _ratio(rewards, sizes)
    if any(is_scored(t) for samples in judged for t in samples):
        return {"reward_mean": reward_mean}
    right = np.array([sum(is_right(t) for t in samples) for samples in judged], dtype=np.float64)
    found = {"accuracy": _share(right, sizes), "reward_mean": reward_mean}
    if sizes.max() > 1:
        most = int(sizes.max())
        found[f"avg@{most}"] = _ratio(right / sizes, np.ones_like(sizes))
    for size in k:
        # Of a problem with fewer judged samples, no k can be drawn.
        enough = [samples for samples in judged if len(samples) >= size]
        if enough and size > 1:
            counts = [sum(map(is_right, samples)) for samples in enough]
            passes = [pass_at_k(len(samples), c, size) for samples, c in zip(enough, counts, strict=True)]
            votes = [maj_at_k(c, _wrong(samples), size) for samples, c in zip(enough, counts, strict=True)]
            found[f"pass@{size}"] = _mean(passes)
            found[f"maj@{size}"] = _mean(votes)
    return found


def _wrong(samples: Sequence[Trajectory]) -> list[int]:
    """How often each wrong answer was given. Right ones count as one answer, for the verifier took them as equal."""
    return list(Counter(answer_of(t.completion) for t in samples if not is_right(t)).values())


def _share(right: NDArray[np.float64], sizes: NDArray[np.float64]) -> Measure:
    if sizes.max() == 1:  # independent draws
        return Measure(float(right.mean()), *wilson(float(right.sum()), len(right)))
    return _ratio(right, sizes)


def _mean(values: Sequence[float]) -> Measure:
    array = np.array(values)
    if set(values) <= {0.0, 1.0}:
        return Measure(float(array.mean()), *wilson(float(array.sum()), len(array)))
    return _ratio(array, np.ones_like(array))


def _ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> Measure:
    return Measure(float(numerators.sum() / denominators.sum()), *bootstrap(numerators, denominators))


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
            "right": None if is_scored(trajectory) else is_right(trajectory),
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
