"""Live progress of a run in the terminal: one panel with rich, plain lines when not a terminal."""

import time
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rlserve.observability.printable import LINES, printable

MAX_TEXT = 100_000
"""Characters of one thing that is said; it may hold a traceback."""


@dataclass(slots=True)
class ProgressState:
    """What the panel shows; the run command updates it."""

    phase: str = "starting"
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""
    train_started: float | None = None

    def eta_seconds(self, now: float) -> float | None:
        """Seconds to the last step at the pace so far; None before the first step."""
        if self.train_started is None or self.step == 0:
            return None
        return (now - self.train_started) / self.step * (self.total_steps - self.step)


SHOWN = (
    ("reward", "received/reward_mean", "{:.3f}"),
    ("accuracy", "received/accuracy", "{:.3f}"),
    ("length", "length/mean", "{:.1f}"),
    ("lag", "lag/mean", "{:.1f}"),
    ("ESS", "algorithm/ess", "{:.3f}"),
    ("tokens/s", "rollout/tokens_per_second", "{:.0f}"),
    ("stall ms", "rollout/stall_seconds_p50", "{:.0f}"),
)
MILLISECONDS = {"stall ms"}


def cells(state: ProgressState, now: float) -> list[tuple[str, str]]:
    """Label and text of each number that is known."""
    shown = [("step", f"{state.step}/{state.total_steps}")] if state.total_steps else []
    for label, name, form in SHOWN:
        value = state.metrics.get(name)
        if value is not None:
            shown.append((label, form.format(value * 1000 if label in MILLISECONDS else value)))
    eta = state.eta_seconds(now)
    if eta is not None and state.phase == "training":
        shown.append(("ETA", f"{int(eta // 60)}:{int(eta % 60):02d}"))
    return shown


class Progress:
    """Shows a ProgressState until closed."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.state = ProgressState()
        self._name = name
        self._console = Console(file=stream)
        self._started = time.monotonic()
        self._last_line = ""
        self._live = (
            Live(console=self._console, refresh_per_second=4, transient=False) if self._console.is_terminal else None
        )

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        shown = printable(text, max_length=MAX_TEXT, keep=LINES)
        self._console.print(shown, highlight=False, soft_wrap=True, markup=False)

    def refresh(self) -> None:
        """Draw the present state; without a terminal, a line whenever phase or step changed."""
        now = time.monotonic()
        shown = cells(self.state, now)
        if self._live:
            self._live.update(self._panel(shown, now))
            return
        key = f"{self.state.phase} {self.state.step} {self.state.message}"
        if key != self._last_line:
            self._last_line = key
            numbers = "  ".join(f"{label} {text}" for label, text in shown)
            line = f"[{now - self._started:6.1f}s] {self.state.phase}  {numbers}  {self.state.message}"
            print(printable(line.rstrip()), file=self._console.file, flush=True)

    def _panel(self, shown: list[tuple[str, str]], now: float) -> Table:
        seconds = int(now - self._started)
        title = f"rlserve {self._name}  {self.state.phase}  {seconds // 60}:{seconds % 60:02d}"
        table = Table(title=title, title_justify="left", expand=False, caption=self.state.message or None)
        for label, _ in shown:
            table.add_column(label, justify="right")
        if shown:
            table.add_row(*(text for _, text in shown))
        return table
