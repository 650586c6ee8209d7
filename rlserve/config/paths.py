"""Names of the files in a run directory."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Paths inside ``<directory>/<run name>/``, defined here alone."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.toml"

    @property
    def inputs(self) -> Path:
        """Data and functions of a script, which the run was given as objects."""
        return self.root / "inputs"

    @property
    def logs(self) -> Path:
        """One log file an actor."""
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        """One JSON line per step."""
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Sample rollouts of the evaluations, one JSON line each."""
        return self.root / "samples.jsonl"

    @property
    def events(self) -> Path:
        """Events with their times: phases, deaths, restarts, warnings; one JSON line each."""
        return self.root / "events.jsonl"

    @property
    def hub_address(self) -> Path:
        """Address of the running hub; absent when the run is over."""
        return self.root / "hub.address"

    @property
    def start_model(self) -> Path:
        """The checkpoint that [pretrain] and [sft] make."""
        return self.root / "start"

    @property
    def pretrained_model(self) -> Path:
        """The checkpoint between [pretrain] and [sft]."""
        return self.root / "pretrained"

    def teacher(self, name: str) -> "RunPaths":
        """Paths of ``start_model`` and ``pretrained_model`` of a teacher that the run makes."""
        return RunPaths(self.root / "teachers" / name)

    @property
    def checkpoints(self) -> Path:
        """Training checkpoints, ``step-<n>`` each."""
        return self.root / "checkpoints"

    @property
    def store(self) -> Path:
        """Groups received, queued, consumed, dropped."""
        return self.root / "groups.sqlite"

    @property
    def summary(self) -> Path:
        """The result in one JSON object."""
        return self.root / "summary.json"

    @property
    def live(self) -> Path:
        """What ``rlserve set`` changed in the running run; in ``config.toml`` once the run is over."""
        return self.root / "live.json"

    @property
    def scale(self) -> Path:
        """What ``rlserve scale`` asks the launcher for, until the launcher takes it."""
        return self.root / "scale.json"

    @property
    def trackers(self) -> Path:
        """By which names trackers know the run."""
        return self.root / "trackers.json"

    @property
    def report(self) -> Path:
        """Plots and samples as one HTML page."""
        return self.root / "report.html"
