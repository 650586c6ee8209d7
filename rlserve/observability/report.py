"""``report.html``: curves, samples and events of a run, finished or not, on one page that needs no network."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlserve.config.load import to_toml
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability import plots
from rlserve.observability.events import read_json_lines
from rlserve.observability.outcome import is_scored, measure_text
from rlserve.observability.summary import read_json

SAMPLES_SHOWN = 12  # of each measurement; any value of this size will do, and samples.jsonl has all
EVENTS_SHOWN = 200  # the last ones; any value of this size will do, and events.jsonl has all
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem 2rem; margin: 1rem 0; }
.facts div b { display: block; font-size: 1.35rem; font-weight: 600; color: #1f3a5f; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: .6rem; }
svg { width: 100%; height: auto; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e3e7ec; vertical-align: top; }
.text { font-family: ui-monospace, monospace; white-space: pre-wrap; word-break: break-word; }
.text div { max-height: 12em; overflow-y: auto; }
.right { color: #2c7a4b; } .wrong { color: #b4442f; } .none { color: #777; }
.failed { background: #fbeeeb; border-left: 4px solid #b4442f; padding: .6rem 1rem; white-space: pre-wrap; }
pre { background: #f6f7f9; padding: 1rem; overflow-x: auto; font-size: .82rem; }
"""


def write_report(config: RunConfig | None, paths: RunPaths) -> None:
    """Write the page from the files of the run directory; a missing file leaves its section out."""
    summary = read_json(paths.summary)
    rows = plots.read_metrics(paths.metrics)
    events = list(read_json_lines(paths.events))
    name = config.name if config else paths.root.resolve().name
    body = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>{html.escape(config.algorithm.type)}, seed {config.seed}</p>" if config else "",
        _failure(events),
        _facts(summary, rows),
        _measures(summary),
        "<h2>Curves</h2>",
        _curves(rows, summary),
        *_samples(list(read_json_lines(paths.samples))),
        _events(events),
        "<h2>Summary</h2><pre>" + html.escape(json.dumps(summary, indent=2)) + "</pre>" if summary else "",
        "<h2>Configuration</h2><pre>" + html.escape(to_toml(config)) + "</pre>" if config else "",
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>"
    )
    # Written beside and renamed: a browser that reloads during a run never sees half a page.
    temporary = paths.report.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # texts of a model may hold lone surrogates
    temporary.replace(paths.report)


def _failure(events: Sequence[Mapping[str, Any]]) -> str:
    """Why the run failed after its last start; empty when it did not."""
    message = ""
    for event in events:
        if event.get("event") == "run_started":
            message = ""
        elif event.get("event") == "run_failed":
            message = str(event.get("message", ""))
    return f'<p class="failed">{html.escape(message)}</p>' if message else ""


def _facts(summary: Mapping[str, Any], rows: plots.Rows) -> str:
    def number(value: Any, form: str) -> str:
        return form.format(value) if isinstance(value, int | float) else "-"

    stall = summary.get("stall_seconds", {})
    shown = ([] if is_scored(summary) else ["accuracy"]) + (["reward"] if "reward_before" in summary else [])
    named = {"accuracy": "held-out accuracy", "reward": "held-out mean reward"}
    facts = (
        *(
            (f"{named[name]} {when}", measure_text(summary, name, when) if f"{name}_{when}" in summary else "-")
            for name in shown
            for when in ("before", "after")
        ),
        ("optimizer steps", number(summary.get("steps", rows[-1]["step"] if rows else None), "{}")),
        ("weight updates in flight", number(summary.get("weight_updates"), "{}")),
        ("sampled tokens per second", number(summary.get("tokens_per_second"), "{:.0f}")),
        ("stall per update, median", number(stall.get("p50", None) and stall["p50"] * 1000, "{:.0f} ms")),
        ("wall seconds", number(summary.get("wall_seconds", {}).get("total"), "{:.0f}")),
    )
    return (
        '<div class="facts">'
        + "".join(f"<div>{html.escape(name)}<b>{html.escape(value)}</b></div>" for name, value in facts)
        + "</div>"
    )


def _curves(rows: plots.Rows, summary: Mapping[str, Any]) -> str:
    panels = plots.panels_of(rows)
    if not panels:
        return "<p>No training step was recorded.</p>"
    lag = {int(k): int(v) for k, v in summary.get("lag", {}).get("histogram", {}).items()}
    try:
        figures = [plots.draw_panel(panel, rows) for panel in panels]
        if lag:
            figures.append(plots.draw_histogram(lag, "Trained tokens by lag", "versions of lag"))
    except ImportError:
        return "<p>No curves: matplotlib is not installed (pip install 'rlserve[report]').</p>"
    return '<div class="curves">' + "".join(f"<div>{plots.to_svg(figure)}</div>" for figure in figures) + "</div>"


def _measures(summary: Mapping[str, Any]) -> str:
    """What the held-out tasks measured before and after, with 95% intervals."""
    evaluations = {w: e for w, e in (summary.get("evaluations") or {}).items() if e and e.get("measures")}
    if not evaluations:
        return ""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for when, found in evaluations.items():
        for part, measures in (("all", found["measures"]), *(found.get("by_set") or {}).items()):
            for name, m in measures.items():
                cells.setdefault((part, name), {})[when] = f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
    rows = "".join(
        f"<tr><td>{html.escape(part)}</td><td>{html.escape(name)}</td>"
        + "".join(f"<td>{values.get(when, '-')}</td>" for when in evaluations)
        + "</tr>"
        for (part, name), values in cells.items()
    )
    head = "".join(f"<th>{when} training</th>" for when in evaluations)
    best = summary.get("best") or {}
    note = f"<p>best {html.escape(best['measure'])} {best['value']:.3f} at step {best['step']}</p>" if best else ""
    return (
        f'<h2>Held-out measures, with 95% intervals</h2>{note}<div class="table"><table>'
        f"<tr><th>tasks</th><th>measure</th>{head}</tr>{rows}</table></div>"
    )


def _samples(samples: list[Mapping[str, Any]]) -> Iterable[str]:
    for when in dict.fromkeys(str(sample.get("when", "")) for sample in samples):
        chosen = [s for s in samples if str(s.get("when", "")) == when][:SAMPLES_SHOWN]
        at = f"at step {when.removeprefix('at-')}" if when.startswith("at-") else f"{when} training"
        yield (
            f"<h2>Sample rollouts {html.escape(at)}</h2>"
            '<div class="table"><table><tr><th>task</th><th>prompt</th><th>completion</th><th>reward</th>'
            f"<th>reason</th></tr>{''.join(map(_sample, chosen))}</table></div>"
        )


def _sample(sample: Mapping[str, Any]) -> str:
    def text(name: str) -> str:
        value = sample.get(name)
        return "" if value is None else html.escape(str(value))

    reward = sample.get("reward")
    judged = isinstance(reward, int | float)
    kind = ("right" if sample.get("right") else "wrong") if judged and sample.get("right") is not None else "none"
    return (
        f"<tr><td>{text('environment')} {text('task_id')}</td>"
        f'<td class="text"><div>{text("prompt")}</div></td><td class="text"><div>{text("completion")}</div></td>'
        f'<td class="{kind}">{f"{reward:g}" if judged else "no verdict"}</td><td>{text("reason")}</td></tr>'
    )


def _events(events: Iterable[Mapping[str, Any]]) -> str:
    shown = [e for e in events if e.get("event") not in ("prepare", "phase")]  # the curves and the summary show them
    if not shown:
        return ""
    start = _time(shown[0])
    left_out = len(shown) - EVENTS_SHOWN
    note = f"<p>events.jsonl has {left_out} earlier events.</p>" if left_out > 0 else ""
    lines = "".join(
        f"<tr><td>{_time(e) - start:.1f} s</td><td>{html.escape(str(e.get('event')))}</td><td class='text'><div>"
        + html.escape(", ".join(f"{k} {v}" for k, v in e.items() if k not in ("event", "unix_seconds")))
        + "</div></td></tr>"
        for e in shown[-EVENTS_SHOWN:]
    )
    return f'<h2>Events</h2>{note}<div class="table"><table>{lines}</table></div>'


def _time(event: Mapping[str, Any]) -> float:
    value = event.get("unix_seconds")
    return float(value) if isinstance(value, int | float) else 0.0
