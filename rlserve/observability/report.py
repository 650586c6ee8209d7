"""``report.html``: what a run did, on one page that needs no network."""

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any

from rlserve.config.load import to_toml
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability import plots
from rlserve.observability.events import read_json_lines
from rlserve.observability.summary import read_json

SAMPLES_SHOWN = 12
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem 2rem; margin: 1rem 0; }
.facts div b { display: block; font-size: 1.35rem; font-weight: 600; color: #1f3a5f; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e3e7ec; vertical-align: top; }
td.text { font-family: ui-monospace, monospace; white-space: pre-wrap; word-break: break-word; }
.right { color: #2c7a4b; } .wrong { color: #b4442f; }
pre { background: #f6f7f9; padding: 1rem; overflow-x: auto; font-size: .82rem; }
"""


def write_report(config: RunConfig, paths: RunPaths) -> None:
    """Write the page from the files of the run directory; what is missing is left out."""
    summary = read_json(paths.summary)
    rows = plots.read_metrics(paths.metrics)
    body = [
        f"<h1>{html.escape(config.name)}</h1>",
        f"<p>{html.escape(config.algorithm.type)}, seed {config.seed}</p>",
        _facts(summary),
        "<h2>Curves</h2>",
        _curves(rows, summary),
        *_samples(list(read_json_lines(paths.samples))),
        _events(read_json_lines(paths.events)),
        "<h2>Summary</h2><pre>" + html.escape(json.dumps(summary, indent=2)) + "</pre>",
        "<h2>Configuration</h2><pre>" + html.escape(to_toml(config)) + "</pre>",
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(config.name)}</title>'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>"
    )
    temporary = paths.report.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.rename(paths.report)


def _facts(summary: Mapping[str, Any]) -> str:
    def number(value: Any, form: str) -> str:
        return form.format(value) if isinstance(value, int | float) else "-"

    stall = summary.get("stall_seconds", {})
    facts = (
        ("held-out accuracy before", number(summary.get("accuracy_before"), "{:.3f}")),
        ("held-out accuracy after", number(summary.get("accuracy_after"), "{:.3f}")),
        ("optimizer steps", number(summary.get("steps"), "{}")),
        ("weight updates in flight", number(summary.get("weight_updates"), "{}")),
        ("sampled tokens a second", number(summary.get("tokens_per_second"), "{:.0f}")),
        ("stall per update, median", number(stall.get("p50", None) and stall["p50"] * 1000, "{:.0f} ms")),
        ("wall seconds", number(summary.get("wall_seconds", {}).get("total"), "{:.0f}")),
    )
    return (
        '<div class="facts">'
        + "".join(f"<div>{html.escape(name)}<b>{html.escape(value)}</b></div>" for name, value in facts)
        + "</div>"
    )


def _curves(rows: plots.Rows, summary: Mapping[str, Any]) -> str:
    try:
        figure = plots.draw_curves(rows)
    except ImportError:
        return "<p>No plots: matplotlib is not installed (pip install 'rlserve[report]').</p>"
    if figure is None:
        return "<p>No training step was recorded.</p>"
    lag = {int(k): int(v) for k, v in summary.get("lag", {}).get("histogram", {}).items()}
    histogram = plots.to_svg(plots.draw_histogram(lag, "Trained tokens by lag", "versions of lag")) if lag else ""
    return plots.to_svg(figure) + histogram


def _samples(samples: list[Mapping[str, Any]]) -> Iterable[str]:
    for when in dict.fromkeys(str(sample.get("when", "")) for sample in samples):
        chosen = [s for s in samples if s.get("when") == when][:SAMPLES_SHOWN]
        lines = "".join(
            f'<tr><td class="text">{html.escape(str(s["prompt"]))}</td>'
            f'<td class="text">{html.escape(str(s["completion"]))}</td>'
            f'<td class="{"right" if s["right"] else "wrong"}">{float(s["reward"]):g}</td>'
            f"<td>{html.escape(str(s['reason']))}</td></tr>"
            for s in chosen
        )
        yield (
            f"<h2>Sample rollouts {html.escape(when)} training</h2>"
            "<table><tr><th>prompt</th><th>completion</th><th>reward</th><th>reason</th></tr>"
            f"{lines}</table>"
        )


def _events(events: Iterable[Mapping[str, Any]]) -> str:
    shown = [e for e in events if e.get("event") not in ("prepare", "phase")]
    if not shown:
        return ""
    start = float(shown[0]["unix_seconds"])
    lines = "".join(
        f"<tr><td>{float(e['unix_seconds']) - start:.1f} s</td><td>{html.escape(str(e['event']))}</td><td>"
        + html.escape(", ".join(f"{k} {v}" for k, v in e.items() if k not in ("event", "unix_seconds")))
        + "</td></tr>"
        for e in shown
    )
    return f"<h2>Events</h2><table>{lines}</table>"
