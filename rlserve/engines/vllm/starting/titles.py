"""What a start of vLLM does, in the titles of its processes: ``ps`` shows it, and the worker process reads it.

A process of vLLM's learns it from the messages that vLLM logs.
"""

import logging
from collections.abc import Callable, Collection, Mapping

import psutil

PHASES: Mapping[str, str] = {
    "Starting to load model": "loads the weights",
    "Model loading took": "compiles and measures its memory",
    "Warming up model": "compiles and warms up",
    "Available KV cache memory": "captures CUDA graphs",
    "init engine (": "",
}
"""What begins with a message that vLLM logs; the last one ends the start."""
FIRST = "loads the model"
PREFIX = "VLLM::"
"""Of the titles that vLLM gives its processes."""
MARK = ": "
"""Between vLLM's own title and what its process does."""


def doing_of(processes: Collection[psutil.Process]) -> str:
    """What vLLM's processes do, by their titles; empty when none says it."""
    for process in processes:
        try:
            title = " ".join(process.cmdline()).strip()
        except psutil.Error:
            continue
        name, mark, phase = title.partition(MARK)
        if mark and name.startswith(PREFIX):
            return phase
    return ""


def show_phases() -> None:
    """Make this process of vLLM's show in its title what its start does."""
    import setproctitle

    title = setproctitle.getproctitle()
    if not title.startswith(PREFIX) or MARK in title:
        return
    logger = logging.getLogger("vllm")
    level = logger.level
    # Its handlers have levels of their own, so that no more is printed.
    logger.setLevel(logging.INFO)
    handler = _Title(title)

    def done() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level)

    handler.done = done
    handler.show(FIRST)
    logger.addHandler(handler)


class _Title(logging.Handler):
    """Turns messages into titles."""

    def __init__(self, title: str) -> None:
        super().__init__(logging.INFO)
        self._title = title
        self.done: Callable[[], None] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        said = str(record.msg)
        phase = next((what for begin, what in PHASES.items() if said.startswith(begin)), None)
        if phase is not None:
            self.show(phase)
        if phase == "":
            self.done()

    def show(self, phase: str) -> None:
        """Show ``phase``, or vLLM's own title if that is empty."""
        import setproctitle

        setproctitle.setproctitle(f"{self._title}{MARK}{phase}" if phase else self._title)
