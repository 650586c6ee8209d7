"""Curves of a run from ``metrics.jsonl``, in small panels that answer one question each."""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlserve.observability.events import read_json_lines

Rows = Sequence[Mapping[str, Any]]
INK, SOFT, GRID = "#1f3a5f", "#c8743a", "#d9dee5"
COLOURS = (INK, SOFT, "#6b8f71", "#8a6bb0", "#b4442f", "#7f8c99")


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: its title, its unit and the metrics that it draws."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    """Pairs of metric and label."""


PANELS = (
    Panel("Reward", "reward", (("received/reward_mean", "all groups received"), ("reward/mean", "batch"))),
    Panel("Accuracy on training tasks", "share", (("received/accuracy", "all groups received"),)),
    Panel(
        "Held-out measurements",
        "",
        (("evaluate/accuracy", "accuracy"), ("evaluate/reward_mean", "mean reward")),
    ),
    Panel(
        "Completion length",
        "tokens",
        (("length/mean", "mean"), ("length/max", "max")),
    ),
    Panel("Entropy of the policy", "nats", (("algorithm/entropy", "mean"),)),
    Panel("Importance ratio", "", (("algorithm/ratio_mean", "mean"), ("algorithm/ratio_max", "max"))),
    Panel("Effective sample size", "share", (("algorithm/ess", "tokens"),)),
    Panel("Drift from the policy that sampled", "nats", (("algorithm/mismatch_kl", "KL (k3)"),)),
    Panel("Lag of trained tokens", "versions", (("lag/mean", "mean"), ("lag/max", "max"))),
    Panel("Throughput", "tokens/s", (("rollout/tokens_per_second", "sampled"),)),
    Panel(
        "Stall of generation at a weight swap",
        "ms",
        (("rollout/stall_seconds_p50", "median"), ("rollout/stall_seconds_max", "longest")),
    ),
    Panel(
        "Where a step's time goes",
        "seconds",
        (
            ("learner/step_seconds", "train"),
            ("learner/wait_seconds", "wait"),
            ("learner/publish_seconds", "publish"),
        ),
    ),
    Panel("Gradient norm", "", (("learner/grad_norm", "before clipping"),)),
)


DROPPED = "groups/dropped/"
COUNTED = re.compile(r"evaluate/(pass|maj|avg)@\d+")


def panels_of(rows: Rows) -> list[Panel]:
    """The panels for which the rows have data; the last ones draw pass@k and its like, and dropped groups by reason."""
    reasons = sorted({name for row in rows for name in row if name.startswith(DROPPED)})
    dropped = Panel("Dropped groups by reason", "groups", tuple((n, n.removeprefix(DROPPED)) for n in reasons))
    counted = sorted({name for row in rows for name in row if COUNTED.fullmatch(name)})
    measured = Panel(
        "Held-out samples taken together", "share", tuple((n, n.removeprefix("evaluate/")) for n in counted)
    )
    return [p for p in (*PANELS, measured, dropped) if any(_has(rows, metric) for metric, _ in p.lines)]


def draw_panel(panel: Panel, rows: Rows) -> Any:
    """Draw one panel as a matplotlib figure."""
    # Imported here: matplotlib is an extra, and a run must not fail for a report without curves. Figures are made
    # without pyplot, whose global state keeps every figure alive and may open a window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure.add_subplot(), panel, rows)
    return figure


def draw_histogram(values: Mapping[int, int], title: str, unit: str) -> Any:
    """Draw counts by whole number, e.g. trained tokens by lag."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar(list(values), list(values.values()), color=INK, width=0.8)
    _dress(axes, title, unit, "tokens")
    axes.set_xticks(sorted(values))
    return figure


def to_svg(figure: Any) -> str:
    """The figure as an SVG element for an HTML page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML declaration, which may not stand inside a page


def read_metrics(path: Any) -> list[Mapping[str, Any]]:
    """The rows of ``metrics.jsonl``, of steps and held-out measurements; of a repeated step the later rows count."""
    rows: list[Mapping[str, Any]] = []
    for row in read_json_lines(path):
        step = row.get("step")
        if not isinstance(step, int):
            continue
        if rows and rows[-1]["step"] > step:  # the run was resumed from a checkpoint before its last line
            rows = [earlier for earlier in rows if earlier["step"] < step]
        rows.append(row)
    return rows


def _draw(axes: Any, panel: Panel, rows: Rows) -> None:
    scale = 1000.0 if panel.unit == "ms" else 1.0
    drawn = [(metric, label) for metric, label in panel.lines if _has(rows, metric)]
    for (metric, label), colour in zip(drawn, itertools.cycle(COLOURS), strict=False):
        points = [(row["step"], row[metric] * scale) for row in rows if row.get(metric) is not None]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, label=label)
    if len(drawn) > 1:
        axes.legend(fontsize=7, frameon=False)
    _dress(axes, panel.title, "optimizer step", panel.unit)


def _dress(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=9, loc="left", color="#222222")
    axes.set_xlabel(x_label, fontsize=7)
    axes.set_ylabel(y_label, fontsize=7)
    axes.tick_params(labelsize=7, length=2)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _has(rows: Rows, metric: str) -> bool:
    return any(row.get(metric) is not None for row in rows)
