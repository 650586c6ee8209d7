"""Names processes that live and are not heard of: stopped, hung, or without a processor.

A process that dies is told by its exit; one that lives on and says nothing, only by its place at the hub.

``watch``  asks the hub every LOOK_SECONDS. waits for: its answer, with the client's deadline. Ends when cancelled.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

import psutil

from rlserve.actors.hub.client import HubClient
from rlserve.errors import RlserveError
from rlserve.launch.plan import HUB, LEARNER

LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 20.0
"""Beyond the lease. A busy machine may keep an actor from its heartbeat for some seconds."""


class Silences:
    """A pure state machine, which is shown who lives and who is registered."""

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._heard: dict[str, int] = {}
        """Process id under which each was registered last."""
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def look(self, living: Mapping[str, int], registered: Mapping[str, int] | None, now: float) -> list[str]:
        """What there is to say at ``now``, in seconds that never go back.

        ``living`` and ``registered`` hold process ids by name; None: the hub does not answer, so nobody knows of
        the others.
        """
        if registered is None:
            silent = {HUB} & living.keys()
            watched = silent
        else:
            heard = {HUB} | {name for name, pid in living.items() if registered.get(name) == pid}
            self._heard |= {name: living[name] for name in heard & living.keys()}
            silent = {name for name, pid in living.items() if name not in heard and self._heard.get(name) == pid}
            watched = set(self._since) | set(living)
        for name in watched - silent:
            self._since.pop(name, None)
        again = [f"{name}: is heard of again" for name in sorted(watched - silent) if name in self._told]
        self._told -= watched - silent
        return again + [text for name in sorted(silent) if (text := self._silent(name, living[name], now))]

    def _silent(self, name: str, pid: int, now: float) -> str:
        quiet = now - self._since.setdefault(name, now)
        if quiet < self._patience_seconds or name in self._told:
            return ""
        self._told.add(name)
        what = "it does not answer" if name == HUB else "the hub has not heard from it"
        way_on = "and go on with --resume" if name == LEARNER else "and another takes its place"
        return (
            f"{name}: {what} for {quiet:.0f} s, though its process lives (pid {pid}, {_state(pid)}): it hangs, was "
            f"stopped, or gets no processor. The run waits for it; should it not come back: `kill -9 {pid}`, {way_on}"
        )


async def watch(
    hub_address: str, living: Callable[[], Mapping[str, int]], tell: Callable[[str], object], silences: Silences
) -> None:
    """Look again and again, and tell."""
    async with HubClient(hub_address) as hub:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            registered: Mapping[str, int] | None = None
            with contextlib.suppress(RlserveError):
                registered = {actor.actor_id: actor.pid for actor in await hub.list_actors()}
            for text in silences.look(living(), registered, time.monotonic()):
                tell(text)


def _state(pid: int) -> str:
    try:
        return str(psutil.Process(pid).status())
    except psutil.Error:
        return "gone"
