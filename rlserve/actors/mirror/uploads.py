"""Copies a run to its mirror while training goes on, in a thread of its own.

It looks at the run directory now and then: a checkpoint that has its manifest is whole, whoever wrote it. The newest
goes first, then the best; older ones that the run gave up go from the mirror, too. What fails is tried again.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlserve.actors.checkpoints import FORMAT, MANIFEST, by_falling_step, entries
from rlserve.actors.mirror.place import Place
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.observability.events import EventLog
from rlserve.observability.warner import Warner

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the directory; nothing beside an upload."""
RECORDS_SECONDS = 30.0
"""Between two copies of the records: they grow with every step, and object stores take whole files."""
MAX_PAUSE_SECONDS = 60.0
"""Longest pause after a failure, which doubles from LOOK_SECONDS."""
PATIENCE_SECONDS = 600.0
"""Time without a single file that went through, after which the end of a run waits no longer for its mirror."""
RECORDS = (
    "config.toml",
    "metrics.jsonl",
    "events.jsonl",
    "samples.jsonl",
    "summary.json",
    "trackers.json",
    "report.html",
)


LINK = "best"
"""Beside the checkpoints a link to the best one, at the mirror a file with its name."""
CLOSE_SECONDS = 10.0
"""For a run that failed or is stopped: below launch.stop_seconds, after which its processes are killed."""


def mirror_of(config: RunConfig) -> Place | None:
    """The run's own folder at its mirror; None without ``checkpoint.mirror``."""
    return Place(config.checkpoint.mirror).below(config.name) if config.checkpoint.mirror else None


def claim(config: RunConfig, *, overwrite: bool) -> None:
    """Make the mirror's folder that of a new run. Raises InvalidRequest when another run is there."""
    place = mirror_of(config)
    if place is None or place.read(RECORDS[0]) is None:
        return
    if not overwrite:
        raise InvalidRequest(
            f"checkpoint.mirror: there is a run at {place.url} already; continue it with `rlserve run --resume "
            f"{place.url}`, start again with --overwrite, or choose another name with --set name=NAME"
        )
    place.remove("")


@contextmanager
def mirrored(config: RunConfig, paths: RunPaths, warn: Warner) -> Iterator[None]:
    """Copy the run while the block trains, and the rest after it."""
    place = mirror_of(config)
    if place is None:
        yield
        return
    uploads = Uploads(place, paths, warn)
    uploads.start()
    try:
        yield
    except BaseException:
        uploads.close(CLOSE_SECONDS)
        raise
    uploads.finish()


class Moved(dict[str, int]):
    """Bytes of the files that went through; each is a sign of life."""

    def __init__(self, uploads: "Uploads") -> None:
        self._uploads = uploads

    def __setitem__(self, file: str, size: int) -> None:
        super().__setitem__(file, size)
        self._uploads.moved_at = time.monotonic()


class Uploads:
    """Runs from :meth:`start` to :meth:`finish` or :meth:`close`."""

    def __init__(self, place: Place, paths: RunPaths, warn: Warner) -> None:
        """``place`` is the run's own folder."""
        self._place = place
        self._paths = paths
        self._warn = warn
        self._events = EventLog(paths.events)
        self._known: dict[str, tuple[int, int]] = {}
        self._trees: dict[str, bytes] = {}
        """Manifests of the trees that are there, as this process put or found them."""
        self._begun: dict[tuple[str, bytes], Moved] = {}
        """What went through of trees that are not."""
        self._best = ""
        self._records_at = -RECORDS_SECONDS
        self.moved_at = time.monotonic()
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def finish(self) -> None:
        """Wait until all that the run has now is at the mirror; warn after PATIENCE_SECONDS without any progress."""
        self.moved_at = time.monotonic()
        self._wanted.set()
        while not self._ended.wait(LOOK_SECONDS):
            if time.monotonic() - self.moved_at > PATIENCE_SECONDS:
                self._warn(
                    f"checkpoint.mirror: {self._place.url} does not have all of this run, and took nothing for "
                    f"{PATIENCE_SECONDS:.0f} s; {self._paths.root} has it, and a resume from there copies the rest"
                )
                return

    def close(self, seconds: float) -> None:
        """The same for at most ``seconds``: the run failed or is stopped, and the rest can be copied later."""
        self._wanted.set()
        self._ended.wait(seconds)

    def _run(self) -> None:
        pause = LOOK_SECONDS
        while True:
            last = self._wanted.is_set()  # before the look, which then sees all that was there when it was set
            try:
                self.look(records=last)
                pause = LOOK_SECONDS
                if last:
                    self._ended.set()
                    return
            except FileNotFoundError as error:
                logger.info("%s went while it was copied; a newer checkpoint follows", error.filename)
            except RlserveError as error:
                self._warn(f"checkpoint.mirror: {error}; it is tried again, and training goes on", cause="mirror")
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            except Exception:
                logger.exception("mirror: unexpected exception; it goes on")
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            if last:
                time.sleep(pause)  # the end is wanted already: only the pause is left
            else:
                self._wanted.wait(pause)

    def look(self, *, records: bool) -> None:
        """Copy what is new. Raises Unavailable."""
        for directory in (self._paths.start_model, *self._paths.root.glob("teachers/*/start")):
            if directory.is_dir():
                self._copy_model(directory)
        whole = [path for path, _ in by_falling_step(self._paths.checkpoints) if (path / MANIFEST).is_file()]
        best = (self._paths.checkpoints / LINK).resolve().name
        for path in [*whole[:1], *(p for p in whole[1:] if p.name == best)]:
            self._copy_checkpoint(path)
            if path.name == best and self._best != best:
                self._place.write(f"checkpoints/{LINK}", best.encode())
                self._best = best
        if whole:
            self._remove_given_up({path.name for path in whole})
        if records or time.monotonic() - self._records_at > RECORDS_SECONDS:
            self._records_at = time.monotonic()
            copy_records(self._place, self._paths, self._known)

    def _copy_checkpoint(self, path: Path) -> None:
        name, manifest = f"checkpoints/{path.name}", (path / MANIFEST).read_bytes()
        if self._trees.get(name) == manifest:
            return
        started = time.monotonic()
        size = self._put(path, name, manifest)
        seconds = round(time.monotonic() - started, 2)
        self._events.note("mirrored", checkpoint=path.name, bytes=size, seconds=seconds)

    def _copy_model(self, directory: Path) -> None:
        name = directory.relative_to(self._paths.root).as_posix()
        if name in self._trees:  # made once, and by rename
            return
        manifest = json.dumps({"format": FORMAT, "files": entries(directory)}, indent=1).encode()
        self._put(directory, name, manifest)

    def _put(self, directory: Path, name: str, manifest: bytes) -> int:
        """Put a tree, or the rest of it; returns its bytes."""
        done = self._begun.setdefault((name, manifest), Moved(self))
        self._place.put_tree(directory, name, manifest, done)
        self._trees[name] = manifest
        del self._begun[name, manifest]
        return sum(done.values())

    def _remove_given_up(self, here: set[str]) -> None:
        # Only once the newest is there: until then the older ones are all that the mirror has.
        for name in self._place.names("checkpoints"):
            if name.startswith("step-") and name not in here:
                self._trees.pop(f"checkpoints/{name}", None)
                self._place.remove(f"checkpoints/{name}")


def copy_records(place: Place, paths: RunPaths, known: dict[str, tuple[int, int]]) -> None:
    """Copy the run's records that changed since ``known`` was written. Raises Unavailable."""
    for path in [*(paths.root / name for name in RECORDS), *sorted(paths.logs.glob("*.log"))]:
        if not path.is_file():
            continue
        name, status = path.relative_to(paths.root).as_posix(), path.stat()
        state = (status.st_mtime_ns, status.st_size)
        if known.get(name) != state:
            place.put(path, name)
            known[name] = state
