"""Settings that ``rlserve set`` changes while the run goes on, read from the run directory before each step."""

from pathlib import Path
from typing import Any

from rlserve.actors.learner.train.schedule import learning_rates
from rlserve.config.live import applied, differences, read_changes
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.observability.warner import Warner


class LiveSettings:
    """The configuration as it is now, and the learning rate by it.

    For example::

        live = LiveSettings(config, paths.live, warn)
        live.look()             # {} until someone calls rlserve set
        live.look()             # {"learner.lr": (1e-4, 1e-5)}: old and new
        live.rate(step)         # by the new one
    """

    def __init__(self, config: RunConfig, path: Path, warn: Warner) -> None:
        self._start = config
        self._path = path
        self._warn = warn
        self._seen: tuple[int, int] | None = None
        self.config = config
        # A run without steps has no schedule, and its evaluations need none.
        self.rate = learning_rates(config.learner, max(config.steps, 1))

    def look(self) -> dict[str, tuple[Any, Any]]:
        """Take over what was set since the last look; returns the keys that changed, with old and new value."""
        if (mark := self._mark()) == self._seen:
            return {}
        self._seen = mark
        try:
            config = applied(self._start, read_changes(self._path))
            rate = learning_rates(config.learner, max(config.steps, 1))
        except ConfigError as error:
            self._warn(f"rlserve set: {error}; the run goes on as it was")
            return {}
        changed = differences(self.config, config)
        self.config, self.rate = config, rate
        return changed

    def _mark(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        # The file is replaced as a whole, so that its inode changes even within one tick of the clock.
        return found.st_ino, found.st_mtime_ns
