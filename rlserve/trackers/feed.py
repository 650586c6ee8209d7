"""Passes a run's numbers to its trackers, which can neither stop nor slow the run.

Each tracker has a thread and a bounded queue. ``_Line.run`` waits for: the queue. unblocked by: ``close``.
``Feed.close`` waits for: the threads, CLOSE_SECONDS or STOP_SECONDS in all. What is not sent by then stays in
``metrics.jsonl``.
"""

import json
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.summary import read_json, write_json
from rlserve.observability.warner import Warner
from rlserve.plugins import describe_exception
from rlserve.trackers.base import Row, RunTracker, TrackedRun, Tracker, flat
from rlserve.trackers.registry import tracker_of

MAX_WAITING = 1000
"""Calls that wait for a tracker: minutes of a run that makes several steps per second, and little memory."""
CLOSE_SECONDS = 30.0
"""To send what is left at the end of a run; a service that takes longer is as good as gone."""
STOP_SECONDS = 5.0
"""The same after a signal or a failure: well within ``launch.stop_seconds``, after which a process is killed."""
SECRET = re.compile(r"(^|_)(api_key|token|secret|password)$")
"""Names of options that never go to a tracker."""

Call = Callable[[RunTracker], None]


class Feed:
    """All trackers of a run.

    For example::

        feed = Feed(config, paths, step=0, warn=warn)     # returns at once; trackers start beside the run
        feed.scalars(1, {"learner/loss": 0.5})
        feed.result({"accuracy_after": 0.9})
        feed.close()
    """

    def __init__(self, config: RunConfig, paths: RunPaths, *, step: int, warn: Warner) -> None:
        """``step`` is where this life begins."""
        identities = _Identities(paths.trackers)
        root = paths.root
        self._lines = []
        for index, table in enumerate(config.trackers):
            # By its options, too: another project is another run in the tracker.
            key = json.dumps([table.type, table.options], sort_keys=True)
            run = TrackedRun(
                name=config.name,
                root=root,
                config=without_secrets(config.model_dump(mode="json", exclude_none=True)),
                step=step,
                identity=identities.get(key),
            )
            line = _Line(
                f"tracker {table.type}",
                make=partial(tracker_of, config, index),
                run=run,
                opened=partial(identities.put, key),
                warn=warn,
            )
            self._lines.append(line)
            line.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; those that are not finite are left out."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._put(lambda tracker: tracker.scalars(step, finite))

    def table(self, step: int, name: str, rows: Sequence[Row]) -> None:
        """Samples of an evaluation."""
        self._put(lambda tracker: tracker.table(step, name, rows))

    def result(self, summary: Mapping[str, Any]) -> None:
        """The summary of the finished run, of which numbers and texts are passed on."""
        plain = {k: v for k, v in flat(summary).items() if isinstance(v, int | float | str) and not _is_odd(v)}
        self._put(lambda tracker: tracker.result(plain))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Send what is left, at most for ``seconds``."""
        deadline = time.monotonic() + seconds
        for line in self._lines:
            line.finish()
        for line in self._lines:
            line.wait(max(deadline - time.monotonic(), 0.0))

    def _put(self, call: Call) -> None:
        for line in self._lines:
            line.put(call)


class _Line:
    """One tracker: its thread and what waits for it."""

    def __init__(
        self,
        name: str,
        *,
        make: Callable[[], Tracker],
        run: TrackedRun,
        opened: Callable[[str], None],
        warn: Warner,
    ) -> None:
        self._name = name
        self._make = make
        self._run = run
        self._opened = opened
        self._warn = warn
        self._waiting: queue.Queue[Call | None] = queue.Queue(MAX_WAITING)
        self._given_up = threading.Event()
        # A daemon: a tracker that hangs must not keep the process.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, call: Call | None) -> None:
        if self._given_up.is_set():
            return
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            self._warn(f"{self._name}: is slower than the run; what it lacks is in metrics.jsonl", cause=self._name)

    def finish(self) -> None:
        """Let it end after what waits for it."""
        # A full queue takes no end mark: the oldest call makes room.
        while not self._given_up.is_set():
            try:
                self._waiting.put_nowait(None)
                return
            except queue.Full:
                try:
                    self._waiting.get_nowait()
                except queue.Empty:
                    continue

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._given_up.set()
            self._warn(f"{self._name}: did not end in time and is left; what it lacks is in metrics.jsonl")

    def _work(self) -> None:
        try:
            tracker = self._make().open(self._run)
            self._opened(tracker.identity)
        except BaseException as error:  # SystemExit too: some libraries raise it without a login
            self._given_up.set()
            self._warn(f"{self._name}: could not start: {describe_exception(error)}; the run goes on without it")
            return
        while (call := self._waiting.get()) is not None:
            self._try("could not take a step", partial(call, tracker))
        self._try("could not be closed", tracker.close)

    def _try(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            cause = f"{self._name}: {what}"
            self._warn(f"{cause}: {describe_exception(error)}; the run goes on", cause=cause)


class _Identities:
    """By which trackers find this run again; a file in the run directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # trackers open in threads of their own

    def get(self, key: str) -> str:
        return str(read_json(self._path).get(key, ""))

    def put(self, key: str, identity: str) -> None:
        with self._lock:
            write_json(self._path, {**read_json(self._path), key: identity})


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the values of passwords and tokens blotted out, at any depth."""
    return {
        key: "***" if SECRET.search(key) and isinstance(value, str) else _inside(value) for key, value in values.items()
    }


def _inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_secrets(value)
    return [_inside(item) for item in value] if isinstance(value, list | tuple) else value


def _is_odd(value: float | str) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
