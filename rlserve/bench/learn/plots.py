"""Plots of accuracy against samples, optimizer steps and seconds: a thick line per method, a thin one per seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlserve.bench.learn.runs import Curve

AXES = (("samples", "completions sampled"), ("steps", "optimizer steps"), ("seconds", "seconds of training"))
POINTS = 60  # of a mean line; about one for each step


def draw(curves: Mapping[str, Sequence[Curve]], titles: Mapping[str, str], path: Path) -> None:
    """Draw the comparison of all methods and write it to ``path``."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    panels = [figure.add_subplot(1, 3, i + 1) for i in range(3)]
    for axes, (field, label) in zip(panels, AXES, strict=True):
        for index, (name, found) in enumerate(curves.items()):
            _line(axes, found, field, colours[(2 * index + index // 10) % 20], titles[name])
        axes.set_xlabel(label)
        axes.set_ylim(0, 1.02)
        axes.grid(color="#d9dee5", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("accuracy of fresh samples")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def draw_each(
    curves: Mapping[str, Sequence[Curve]], titles: Mapping[str, str], path: Path, *, columns: int = 4
) -> None:
    """Draw one panel for each method: a line for each seed, and the accuracy at the start."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    shared = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in list(shared.flat)[len(curves) :]:
        axes.set_visible(False)
    for axes, (name, found) in zip(shared.flat, curves.items(), strict=False):
        for curve in found:
            axes.plot([0, *curve.samples], [curve.accuracy_before, *curve.accuracy], linewidth=1.2)
        axes.axhline(np.mean([c.accuracy_before for c in found]), color="#999999", linewidth=0.8, linestyle=":")
        axes.set_title(titles[name], fontsize=9, loc="left")
        axes.set_ylim(0.3, 1.02)
        axes.tick_params(labelsize=7)
        axes.grid(color="#d9dee5", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.supxlabel("completions sampled", fontsize=9)
    figure.supylabel("accuracy of fresh samples", fontsize=9)
    figure.savefig(path, dpi=100)


def _line(axes: Any, found: Sequence[Curve], field: str, colour: Any, title: str) -> None:
    sides = [(np.array([0, *getattr(c, field)], dtype=float), [c.accuracy_before, *c.accuracy]) for c in found]
    last = min(x[-1] for x, _ in sides)  # the mean line ends where the first seed does
    grid = np.linspace(0, last, POINTS)
    for x, y in sides:
        axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.35)
    axes.plot(
        grid, np.mean([np.interp(grid, x, y) for x, y in sides], axis=0), color=colour, linewidth=1.8, label=title
    )
