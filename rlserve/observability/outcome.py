"""The result of a run over all its lives (from a start or a resumption to its end): merged summaries, and sentences."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlserve.observability.events import phase_seconds

ADDED = ("weight_updates", "weight_mismatches")
"""Counts that start from 0 in each learner process; all other counts continue from the checkpoint."""
NO_VERDICT = "no verdict"


def measured_line(event: Mapping[str, Any], when: str = "") -> str:
    """A held-out measurement from its "accuracy" event, as a sentence; fields may be missing, as in older events.

    It is of the accuracy; of the mean reward where rewards are on a scale and none is said to be right.
    """
    value, reward = event.get("value", event.get("accuracy")), event.get("reward_mean")
    what = "mean reward" if value is None and reward is not None else "accuracy"
    return f"held-out {what} {when + ': ' if when else ''}{_measured_text(event, value, reward)}"


def _measured_text(event: Mapping[str, Any], value: Any, reward: Any) -> str:
    if text := event.get("text"):
        return str(text)
    samples, unjudged = event.get("samples"), event.get("unjudged", 0)
    if (value is None and reward is None) or (samples and unjudged and unjudged >= samples):
        return NO_VERDICT
    if value is None:
        return f"{float(reward):.3f}"
    return f"{float(value):.3f}" + (f", mean reward {float(reward):.3f}" if reward is not None else "")


def outcome_lines(summary: Mapping[str, Any]) -> list[str]:
    """The result of a run as sentences: accuracy and reward before and after training, where they were measured."""
    lines = []
    for name in ("accuracy", "reward"):
        before, after = summary.get(f"{name}_before"), summary.get(f"{name}_after")
        if name == "accuracy" and is_scored(summary):
            continue
        if _was_measured(summary, "before") or before is not None or after is not None:
            what = "held-out accuracy" if name == "accuracy" else "held-out mean reward"
            lines.append(f"{what} {measure_text(summary, name, 'before')} -> {measure_text(summary, name, 'after')}")
    if best := summary.get("best"):
        where = (
            f": {best['checkpoint']}" if best.get("checkpoint") else " (the start model)" if not best["step"] else ""
        )
        lines.append(f"best {best['measure']} {best['value']:.3f} at step {best['step']}{where}")
    return lines


def is_scored(summary: Mapping[str, Any]) -> bool:
    """Whether some measurement has a mean reward and no accuracy, because rewards are on a scale."""
    return any(
        summary.get(f"accuracy_{when}") is None and summary.get(f"reward_{when}") is not None
        for when in ("before", "after")
    )


def measure_text(summary: Mapping[str, Any], name: str, when: str) -> str:
    """``"accuracy"`` or ``"reward"`` before or after training, with its 95% interval where the summary has one."""
    value = summary.get(f"{name}_{when}")
    if not isinstance(value, int | float):
        return NO_VERDICT
    evaluation = (summary.get("evaluations") or {}).get(when) or {}
    found = (evaluation.get("measures") or {}).get("reward_mean" if name == "reward" else name)
    return f"{value:.3f}" + (f" [{found['low']:.3f}, {found['high']:.3f}]" if found else "")


def measure_lines(found: Mapping[str, Any]) -> list[str]:
    """The measures of an evaluation with their 95% intervals, a line each; those of a set behind its name."""
    parts = [("", found.get("measures") or {}), *sorted((found.get("by_set") or {}).items())]
    lines = []
    for name, measures in parts if len(parts) > 2 else parts[:1]:
        for measure, value in measures.items():
            label = f"{name} {measure}".strip()
            lines.append(f"  {label:32} {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
    return lines


def _was_measured(summary: Mapping[str, Any], when: str) -> bool:
    evaluations = summary.get("evaluations")
    return isinstance(evaluations, Mapping) and bool(evaluations.get(when))


def merge_lives(
    earlier: Mapping[str, Any], latest: Mapping[str, Any], seconds: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """The summary of a run that may have been resumed: ``latest`` plus the numbers of earlier lives.

    ``seconds`` are the phases of each life. Percentiles of stalls cannot be added: those of the life with the most
    weight updates stand for all.
    """
    merged = {**latest, "wall_seconds": _added(seconds)}
    if not earlier:
        return merged
    for name in ADDED:
        merged[name] = int(earlier.get(name, 0)) + int(latest.get(name, 0))
    # Measured once, before the first step: a resumed run does not repeat it.
    for name in ("accuracy_before", "reward_before"):
        if merged.get(name) is None and earlier.get(name) is not None:
            merged[name] = earlier[name]
    if earlier.get("weight_updates", 0) > latest.get("weight_updates", 0):
        merged["stall_seconds"] = earlier.get("stall_seconds", {})
    merged["recovery_seconds"] = {**earlier.get("recovery_seconds", {}), **latest.get("recovery_seconds", {})}
    # Tokens per second: weighted with the training time of each life.
    before, now = float(earlier.get("wall_seconds", {}).get("training", 0)), seconds[-1].get("training", 0.0)
    if before + now > 0:
        tokens = earlier.get("tokens_per_second", 0.0) * before + latest.get("tokens_per_second", 0.0) * now
        merged["tokens_per_second"] = round(tokens / (before + now), 1)
    return merged


def _added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: round(sum(part.get(name, 0.0) for part in parts), 2) for name in names}


def seconds_of_lives(events: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Wall seconds of each phase, and of the whole under "total", for each life: a "run_started" event begins one."""
    lives: list[list[Mapping[str, Any]]] = []
    for event in events:
        if event.get("event") == "run_started" or not lives:
            lives.append([])
        lives[-1].append(event)
    # A life ends with its last event: a killed run records no end.
    found = []
    for life in lives:
        start, end = float(life[0]["unix_seconds"]), float(life[-1]["unix_seconds"])
        found.append({"total": end - start, **phase_seconds(iter(life), end)})
    return found
