"""Whether the Hugging Face Hub can be reached. Its own clients retry for half a minute before they say so."""

import functools
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 2.0
"""Limit for one answer; without a network a check must not hold up a start."""
ASKED_AGAIN_SECONDS = 60.0
"""An answer holds for at most this long: a start asks for each model and data set, and a network may come back."""


def endpoint() -> str:
    """Address of the Hub, or of the mirror that ``HF_ENDPOINT`` names."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def answers() -> bool:
    """Whether the Hub, or the mirror that ``HF_ENDPOINT`` names, answers now; False in offline mode."""
    if is_offline():
        return False
    return _answered(endpoint(), int(time.monotonic() // ASKED_AGAIN_SECONDS))


def is_offline() -> bool:
    """Whether the user has asked for the cache alone."""
    # Here: a host that only verifies has no such package.
    from huggingface_hub import constants

    asked = os.environ.get("HF_DATASETS_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    return asked or bool(constants.HF_HUB_OFFLINE)


@contextmanager
def from_the_cache(active: bool = True) -> Iterator[None]:
    """Make ``huggingface_hub``, transformers and ``datasets`` use their caches at once, without a try of the Hub."""
    from huggingface_hub import constants

    # Imported by who loads data: its import takes seconds, which a model need not pay.
    modules = [constants, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [module.HF_HUB_OFFLINE for module in modules]
    if active:
        for module in modules:
            module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=8)
def _answered(address: str, period: int) -> bool:
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(address, timeout=SECONDS).close()
        except urllib.error.HTTPError:  # a server that answers with an error is reachable
            pass
        except OSError:
            return
        answered.set()

    # In a thread: no timeout bounds the look-up of a name, which takes half a minute where name servers are silent,
    # and each address of a name has the whole timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return answered.is_set()
