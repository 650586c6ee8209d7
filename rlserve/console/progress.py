"""Live progress of a run: a table by rich in a terminal, plain lines elsewhere."""

import time
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rlserve.observability.printable import LINES, printable

MAX_TEXT = 100_000
"""Characters of one message, which may contain a traceback."""
MAX_DETAIL_LINES = 40
"""Lines of a traceback shown below a warning: a screenful; the log has all."""


@dataclass(slots=True)
class ProgressState:
    """The displayed state, updated by ``follow``. Seconds are monotonic."""

    phase: str = "starting"
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""
    first_step: int | None = None
    """Step at which this process began to train."""
    training_since: float | None = None
    """Start of the present stretch of training; None outside of training."""
    trained_seconds: float = 0.0
    """Seconds of training in earlier stretches."""

    def enter(self, phase: str, now: float, total_steps: int = 0) -> None:
        """Enter another phase; ``total_steps`` is given with "training"."""
        if self.training_since is not None:
            self.trained_seconds += now - self.training_since
        self.training_since = now if phase == "training" else None
        self.phase, self.message = phase, ""
        if phase == "training":
            self.total_steps = total_steps
            # Kept over measurements in between: the pace is that of all training of this process.
            self.first_step = self.step if self.first_step is None else self.first_step

    def eta_seconds(self, now: float) -> float | None:
        """Seconds to the last step at the pace of this process; None before its first step and outside of training."""
        if self.training_since is None or self.first_step is None or self.step <= self.first_step:
            return None
        seconds = self.trained_seconds + now - self.training_since
        return seconds / (self.step - self.first_step) * (self.total_steps - self.step)


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
    """Label and text of each available number."""
    shown = [("step", f"{state.step}/{state.total_steps}")] if state.total_steps else []
    for label, name, form in SHOWN:
        value = state.metrics.get(name)
        if value is not None:
            shown.append((label, form.format(value * 1000 if label in MILLISECONDS else value)))
    eta = state.eta_seconds(now)
    if eta is not None:
        shown.append(("ETA", minutes(eta)))
    return shown


def minutes(seconds: float) -> str:
    """Seconds as ``m:ss``."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


class Progress:
    """Shows a ProgressState until closed."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.state = ProgressState()
        self._name = name
        self._console = Console(file=stream)
        self._started = time.monotonic()
        self._last_line = ""
        self._last_step = 0
        self._warned: set[str] = set()
        self._live = (
            # rich moves the cursor to redraw, which only a terminal can do.
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
        """Print permanent lines."""
        # All off: square brackets and :names: in a message are text, not rich's markup. A hard wrap would break
        # paths that users copy.
        self._console.print(
            printable(text, max_length=MAX_TEXT, keep=LINES), highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def warn(self, message: str, details: str = "") -> None:
        """Print a permanent warning with details (a traceback) indented below it; repeats are skipped."""
        if message in self._warned:
            return
        self._warned.add(message)
        lines = details.strip("\n").split("\n") if details.strip() else []
        if len(lines) > MAX_DETAIL_LINES:
            lines = ["...", *lines[-MAX_DETAIL_LINES:]]
        self.say("\n".join([f"warning: {message}", *(f"    {line}" for line in lines)]))

    def refresh(self) -> None:
        """Draw the present state. Each step leaves a permanent line; without a terminal, so do phases and messages."""
        now = time.monotonic()
        shown = cells(self.state, now)
        if self._live:
            if self.state.step > self._last_step and self.state.metrics:
                self.say(self._line(shown, now))
            self._last_step = self.state.step
            self._live.update(self._panel(shown, now))
            return
        # One line per change: a log file should not grow by three lines per second.
        key = f"{self.state.phase} {self.state.step} {self.state.message}"
        if key != self._last_line:
            self._last_line = key
            # Not by rich, which wraps lines at 80 columns where there is no terminal.
            print(printable(self._line(shown, now)), file=self._console.file, flush=True)

    def _line(self, shown: list[tuple[str, str]], now: float) -> str:
        numbers = "  ".join(f"{label} {text}" for label, text in shown)
        return f"[{now - self._started:6.1f}s] {self.state.phase}  {numbers}  {self.state.message}".rstrip()

    def _panel(self, shown: list[tuple[str, str]], now: float) -> Table:
        title = f"rlserve {self._name}  {self.state.phase}  {minutes(now - self._started)}"
        table = Table(title=title, title_justify="left", expand=False, caption=self.state.message or None)
        for label, _ in shown:
            table.add_column(label, justify="right")
        if shown:
            table.add_row(*(text for _, text in shown))
        return table
