"""Whatever an environment raises is told as its failure, with the place; its first traceback goes to the log."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

from rlserve.errors import InvalidRequest, PluginFailed, RlserveError

logger = logging.getLogger(__name__)
T = TypeVar("T")
MAX_CHARACTERS = 400
MAX_CAUSES = 64
"""Whose tracebacks are logged; a plug-in that always fails otherwise fills no disk."""


class Blame:
    """For one environment; thread-safe."""

    def __init__(self, environment: object, name: str) -> None:
        self.what = f"environment {name!r}"
        module = sys.modules.get(type(environment).__module__)
        self._home = os.path.dirname(os.path.abspath(getattr(module, "__file__", None) or __file__))
        self._told: set[tuple[str, str]] = set()

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work()``. Raises PluginFailed for anything else than what it raises on purpose."""
        try:
            return work()
        except InvalidRequest as error:  # of a record that it made: not of the caller's
            raise self.failed(error) from error
        except RlserveError:
            raise
        except BaseException as error:  # SystemExit of a plug-in too: it is its failure, not our end
            raise self.failed(error) from error

    def failed(self, error: BaseException) -> PluginFailed:
        """``error`` as the environment's failure: its words and the last line of its own code that led to it."""
        place = self._own(traceback.extract_tb(error.__traceback__))
        self._log(error, place)
        try:
            text = " ".join(str(error).split())
        except Exception:  # an exception may be unable to say what it is
            text = "(it cannot say what it is)"
        words = f"{type(error).__name__}: {text}".rstrip(": ")
        return PluginFailed(f"{self.what}: {words[:MAX_CHARACTERS]}{f' ({place})' if place else ''}")

    def standing(self, frame: FrameType | None) -> str:
        """Where a thread that hangs stands, as ``file:line``, in its own code if it is there."""
        frames = traceback.extract_stack(frame) if frame is not None else []
        return self._own(frames) or (f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "its end")

    def _own(self, frames: Sequence[traceback.FrameSummary]) -> str:
        own = [frame for frame in frames if os.path.abspath(frame.filename).startswith(self._home + os.sep)]
        return f"{own[-1].filename}:{own[-1].lineno}" if own else ""

    def _log(self, error: BaseException, place: str) -> None:
        cause = type(error).__name__, place
        if cause not in self._told and len(self._told) < MAX_CAUSES:
            self._told.add(cause)
            logger.error("%s failed; more failures of this kind are not logged", self.what, exc_info=error)
