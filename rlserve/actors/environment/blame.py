"""Turns any exception of an environment into PluginFailed with file and line; logs its first traceback."""

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
"""Of the exception's text in a message: a few lines; the log has the rest."""
MAX_CAUSES = 64
"""Distinct failures logged with a traceback, so that a plug-in that always fails differently cannot fill the disk."""


class Blame:
    """Runs calls into one environment and attributes their exceptions to it; thread-safe.

    Example::

        blame = Blame(environment, "math")
        task = blame.run(lambda: environment.task("train", 0, 1))
        # PluginFailed: environment 'math': KeyError: 'gold' (/plugins/math.py:12)
    """

    def __init__(self, environment: object, name: str) -> None:
        self.what = f"environment {name!r}"
        module = sys.modules.get(type(environment).__module__)
        self._home = os.path.dirname(os.path.abspath(getattr(module, "__file__", None) or __file__))
        self._logged: set[tuple[str, str]] = set()

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work()``. Passes RlserveError on, raises PluginFailed for every other exception."""
        try:
            return work()
        except InvalidRequest as error:  # about a record that the plug-in made, so not the caller's fault
            raise self.failed(error) from error
        except RlserveError:
            raise
        except BaseException as error:  # also SystemExit: a plug-in must not end the server
            raise self.failed(error) from error

    def failed(self, error: BaseException) -> PluginFailed:
        """``error`` as PluginFailed, with the last line of the environment's own code in the traceback."""
        place = self._own(traceback.extract_tb(error.__traceback__))
        self._log(error, place)
        try:
            # One line: it stands inside of a message over gRPC.
            text = " ".join(str(error).split())
        except Exception:  # a plug-in's exception may raise in __str__
            text = "(its __str__ raises)"
        words = f"{type(error).__name__}: {text}".rstrip(": ")
        return PluginFailed(f"{self.what}: {words[:MAX_CHARACTERS]}{f' ({place})' if place else ''}")

    def location(self, frame: FrameType | None) -> str:
        """The current line of a hanging thread as ``file:line``, in the environment's own code if possible."""
        frames = traceback.extract_stack(frame) if frame is not None else []
        return self._own(frames) or (f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "its end")

    def _own(self, frames: Sequence[traceback.FrameSummary]) -> str:
        # With the separator, so that "/plugins/math2" is no part of "/plugins/math".
        own = [frame for frame in frames if os.path.abspath(frame.filename).startswith(self._home + os.sep)]
        return f"{own[-1].filename}:{own[-1].lineno}" if own else ""

    def _log(self, error: BaseException, place: str) -> None:
        # Without the text, which may differ at every call.
        cause = type(error).__name__, place
        if cause not in self._logged and len(self._logged) < MAX_CAUSES:
            self._logged.add(cause)
            logger.error("%s failed; more failures of this kind are not logged", self.what, exc_info=error)
