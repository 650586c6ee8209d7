"""Warnings for people, once for each cause: in the log and in the run's events, from which the console shows them."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from rlserve.observability.events import EventLog

logger = logging.getLogger(__name__)


class Warner:
    """Reports a cause at its first occurrence, then at its 10th, 100th, ... with the count.

    For example::

        warn = Warner(paths.events)
        warn("verifier-0: no answer; the group goes to another", cause="verifier-0")    # reported
        warn("verifier-0: no answer; the group goes to another", cause="verifier-0")    # counted only
        # The tenth time: "verifier-0: no answer; the group goes to another (10 times by now)"
    """

    def __init__(self, path: Path) -> None:
        """``path`` is the run's events file."""
        self._events = EventLog(path)
        self._times: Counter[str] = Counter()

    def __call__(self, message: str, *, cause: str = "", **fields: Any) -> None:
        """Report or count a warning; warnings with the same ``cause`` (or, without one, message) count as one.

        ``message`` names the culprit, the problem and what happens next.
        """
        cause = cause or message
        self._times[cause] += 1
        times = self._times[cause]
        if times > 1 and times != 10 ** (len(str(times)) - 1):  # no power of ten
            return
        text = message if times == 1 else f"{message} ({times} times by now)"
        self._events.write("warning", message=text, cause=cause, **fields)
        logger.warning("%s", text)
