"""Publishes beside the training thread: one version at a time, while the next step runs.

The training thread hands a version over and goes on. Two waits can hold it up:

``wait_until_copied``  waits for: the copies of the version that is on its way, which read the weights. unblocked by: a
                       thread that copies and waits for no other. Called before an optimizer changes the weights.
``wait``               waits for: the announcement of that version. Called before the next one is begun.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from rlserve.weight_sync.publication import Publication, PublishTimes
from rlserve.weight_sync.publisher import Publisher

logger = logging.getLogger(__name__)


class BackgroundPublisher:
    """Used by the training thread.

    For example::

        publishing = BackgroundPublisher(publisher)
        publishing.start(publisher.begin(7, size_bytes=size), copy, lambda: print("7 can be fetched"))
        ...                               # forward and backward pass of the next step
        publishing.wait_until_copied()    # the optimizer may write
        publishing.wait()                 # version 7 is announced; raises what went wrong
        publishing.close()
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._running: Future[None] | None = None
        self._copied = Event()
        self._waited = 0.0
        self.times = PublishTimes()
        """Of the last version that was announced."""

    def start(
        self, publication: Publication, copy: Callable[[Publication], None], published: Callable[[], object]
    ) -> None:
        """Copy and publish in another thread: ``copy`` adds all tensors, ``published`` is called at the end."""
        self.wait()
        self._copied.clear()
        self._running = self._thread.submit(self._run, publication, copy, published)

    def check(self) -> None:
        """Raise what a publication that has ended raised."""
        if self._running is not None and self._running.done():
            self._running.result()

    def wait_until_copied(self) -> None:
        """Return when the weights may change."""
        if self._running is not None:
            started = time.monotonic()
            self._copied.wait()
            self._waited += time.monotonic() - started

    def wait(self) -> None:
        """Return when the last version is announced. Raises what went wrong, at each call."""
        if self._running is not None:
            self._running.result()

    def take_waited_seconds(self) -> float:
        """Seconds in which updates waited for copies since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Let the version that is on its way end."""
        self._thread.shutdown(wait=True)

    def _run(
        self, publication: Publication, copy: Callable[[Publication], None], published: Callable[[], object]
    ) -> None:
        try:
            with publication.copying():
                copy(publication)
            publication.copied()
            # Before the digests: the next update waits for this.
            self._copied.set()
            policy = publication.finish()
        except BaseException:
            publication.abandon()
            raise
        finally:
            self._copied.set()
        self.times = publication.times
        published()
        logger.debug("published version %d in %.3f s", policy.version, self.times.seconds)
        # After the news: the next version then finds a file that is ready to be written.
        self._publisher.prepare(self.times.num_bytes, pin=publication.on_gpu)
