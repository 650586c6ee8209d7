"""Warnings for people: in the run's events, from where the console shows them, and in the log; once a cause."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from rlserve.observability.events import EventLog

logger = logging.getLogger(__name__)


class Warner:
    """Says a cause when it first occurs, then at its 10th, 100th, ... occurrence with the count."""

    def __init__(self, path: Path) -> None:
        """``path`` is the run's events file."""
        self._events = EventLog(path)
        self._times: Counter[str] = Counter()

    def __call__(self, message: str, *, cause: str = "", **fields: Any) -> None:
        """``message`` names the culprit, the cause and what happens next; ``cause`` tells occurrences apart.

        Without a cause the message itself does.
        """
        cause = cause or message
        self._times[cause] += 1
        times = self._times[cause]
        if times > 1 and times != 10 ** (len(str(times)) - 1):
            return
        text = message if times == 1 else f"{message} ({times} times by now)"
        self._events.write("warning", message=text, cause=cause, **fields)
        logger.warning("%s", text)
