"""``rlserve bench learn``: compares all methods over several seeds, in a table and a plot."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from rlserve.bench.learn.methods import GROUPS, METHODS, Method
from rlserve.bench.learn.plots import draw, draw_each
from rlserve.bench.learn.runs import Curve, Ground, prepare, run
from rlserve.errors import InvalidRequest

REACHED = 0.9
"""Accuracy whose cost is reported. Any value well above the start's will do that the better methods reach."""
WINDOW = 3
"""Steps over which the accuracy of received samples is averaged: that of the 256 of one step varies by 2 % and more."""
Curves = Mapping[str, Sequence[Curve]]


def measure(
    *,
    config: str = "configs/quickstart.toml",
    out: str = "runs/bench-learn",
    seeds: int = 3,
    only: Sequence[str] = (),
    keep: bool = False,
) -> dict[str, Any]:
    """Held-out accuracy before and after training, and the cost of accuracy 0.9: means and ranges over seeds.

    Writes ``learn.json`` and ``learn.png`` to ``out``. ``keep`` reads the results of earlier runs instead of repeating
    them.
    """
    chosen = choose(METHODS, only)
    grounds = (prepare(config, Path(out), seed, chosen) for seed in range(seeds))
    curves = run_all(chosen, grounds, keep=keep, describe=gain)
    titles = {method.name: method.title for method in chosen}
    write(Path(out) / "learn", curves, titles)
    return {"samples": GROUPS * 8, **{name: summary(found) for name, found in curves.items()}}


def run_all(
    methods: Sequence[Method],
    grounds: Iterable[Ground],
    *,
    keep: bool,
    describe: Callable[[Curve], str],
    run: Callable[..., Curve] = run,
) -> dict[str, list[Curve]]:
    """Run each method on each ground and return the curves by method; ``describe`` makes the line printed for one.

    ``run(method, ground, keep=keep)`` makes one curve.
    """
    curves: dict[str, list[Curve]] = {method.name: [] for method in methods}
    for ground in grounds:
        for method in methods:
            curve = run(method, ground, keep=keep)
            curves[method.name].append(curve)
            print(f"  seed {ground.seed}  {method.title:42} {describe(curve)}", file=sys.stderr, flush=True)
    return curves


def gain(curve: Curve) -> str:
    """Held-out accuracy before and after."""
    return f"{curve.accuracy_before:.3f} -> {curve.accuracy_after:.3f}"


def choose(methods: Sequence[Method], only: Sequence[str]) -> list[Method]:
    """The named methods, or all when none is named. Raises InvalidRequest for an unknown name."""
    known = {method.name: method for method in methods}
    for name in only:
        if name not in known:
            raise InvalidRequest(f"--only: is {name!r}; give one of {', '.join(known)}")
    return [known[name] for name in only] or list(methods)


def summary(curves: Sequence[Curve]) -> dict[str, Any]:
    """Means over seeds, and the range of the result."""
    after = [curve.accuracy_after for curve in curves]
    at = [reached(curve) for curve in curves]
    both = [a for a in at if a is not None]
    return {
        "before": round(mean(curve.accuracy_before for curve in curves), 3),
        "after": round(mean(after), 3),
        "after_range": f"{min(after):.3f} to {max(after):.3f}",
        f"seeds_at_{REACHED}": f"{len(both)} of {len(curves)}",
        f"samples_to_{REACHED}": round(mean(a[0] for a in both)) if both else "never",
        f"steps_to_{REACHED}": round(mean(a[1] for a in both), 1) if both else "never",
        f"seconds_to_{REACHED}": round(mean(a[2] for a in both), 1) if both else "never",
        "seconds_a_step": round(mean(c.seconds[-1] / c.steps[-1] for c in curves if c.steps), 2),
        "lag_mean": round(mean(mean(c.lag) for c in curves if c.lag), 2),
        "ess_min": round(min(min(c.ess) for c in curves if c.ess), 3),
    }


def reached(curve: Curve) -> tuple[int, int, float] | None:
    """(samples, steps, seconds) when the mean accuracy of WINDOW steps first was REACHED; None when it never was."""
    window = min(WINDOW, len(curve.accuracy))
    for i in range(window - 1, len(curve.accuracy)):
        if mean(curve.accuracy[i - window + 1 : i + 1]) >= REACHED:
            return curve.samples[i], curve.steps[i], curve.seconds[i]
    return None


def write(stem: Path, curves: Curves, titles: Mapping[str, str]) -> None:
    """Write the numbers and the plots of a comparison."""
    content = {name: [asdict(curve) for curve in found] for name, found in curves.items()}
    stem.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
    draw(curves, titles, stem.with_suffix(".png"))
    draw_each(curves, titles, stem.with_name(f"{stem.name}-each.png"))
    print(f"  plot {stem.with_suffix('.png')}", file=sys.stderr)
