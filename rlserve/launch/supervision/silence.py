"""Reports processes that live and send no heartbeat: stopped, hung, or without a processor; and what long starts do.

A dead process is found by its exit status; one that lives and is silent, only by its missing registration at the hub.

``watch``  asks the hub every LOOK_SECONDS. waits for: its answer, with the client's deadline. Ends when cancelled.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

import psutil

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.starting import DOING, WAITS, name_of
from rlserve.errors import RlserveError
from rlserve.launch.plan import HUB, LEARNER
from rlserve.records import ActorKind

LOOK_SECONDS = 2.0
"""Any value well below PATIENCE_SECONDS will do."""
PATIENCE_SECONDS = 20.0
"""Beyond the heartbeat timeout: a busy machine can delay a heartbeat by some seconds."""


class Silences:
    """A pure state machine over living processes and registered actors.

    Example: ``look({"rollout-0": 7}, {}, now)`` returns nothing at first, a warning once rollout-0 was registered and
    has been missing for ``patience_seconds``, and a notice when it registers again.
    """

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._registered: dict[str, int] = {}
        """Last registered process id, by name."""
        self._since: dict[str, float] = {}
        self._reported: set[str] = set()

    def look(self, living: Mapping[str, int], registered: Mapping[str, int] | None, now: float) -> list[str]:
        """The messages at ``now``, in monotonic seconds.

        ``living`` and ``registered`` hold process ids by name; None: the hub does not answer, so nothing is known of
        the others.
        """
        if registered is None:
            silent = {HUB} & living.keys()
            watched = silent
        else:
            # By process id as well: the registration of a process that died may outlast it by the heartbeat timeout.
            present = {HUB} | {name for name, pid in living.items() if registered.get(name) == pid}
            self._registered |= {name: living[name] for name in present & living.keys()}
            # Only one that registered before: an actor that still imports its libraries is no silent one.
            silent = {name for name, pid in living.items() if name not in present and self._registered.get(name) == pid}
            watched = set(self._since) | set(living)
        # A process that ended, or that another took the place of, starts with no time of silence.
        for name in watched - silent:
            self._since.pop(name, None)
        again = [f"{name}: sends heartbeats again" for name in sorted(watched - silent) if name in self._reported]
        self._reported -= watched - silent
        return again + [text for name in sorted(silent) if (text := self._silent(name, living[name], now))]

    def _silent(self, name: str, pid: int, now: float) -> str:
        quiet = now - self._since.setdefault(name, now)
        if quiet < self._patience_seconds or name in self._reported:
            return ""
        self._reported.add(name)
        what = "it does not answer" if name == HUB else "it has sent the hub no heartbeat"
        way_on = "and continue with --resume" if name == LEARNER else "and another takes its place"
        return (
            f"{name}: {what} for {quiet:.0f} s, though its process lives (pid {pid}, {_state(pid)}): it hangs, was "
            f"stopped, or gets no processor. The run waits for it; should it not come back: `kill -9 {pid}`, {way_on}"
        )


class Starts:
    """What actors do that take long to start: a pure state machine.

    Example: ``look({"rollout-0": "loads the weights"}, now)`` returns nothing at first; after ``patience_seconds``, and
    at each change from then on, the actor, what it does and for how long it has been starting.
    """

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._since: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def look(self, starting: Mapping[str, str], now: float) -> list[tuple[str, str, float]]:
        """What is new at ``now``, in monotonic seconds; ``starting``: what each starting actor does.

        The time in which it waits for another process does not count.
        """
        starting = {name: doing for name, doing in starting.items() if not doing.startswith(WAITS)}
        for name in self._since.keys() - starting.keys():
            self._since.pop(name)
            self._said.pop(name, None)
        news = []
        for name, doing in sorted(starting.items()):
            seconds = now - self._since.setdefault(name, now)
            if doing and doing != self._said.get(name) and seconds >= self._patience_seconds:
                self._said[name] = doing
                news.append((name, doing, seconds))
        return news


async def watch(
    hub_address: str,
    living: Callable[[], Mapping[str, int]],
    tell: Callable[[str], object],
    silences: Silences,
    tell_start: Callable[[str, str, float], object],
    starts: Starts,
) -> None:
    """Compare every LOOK_SECONDS; each message goes to ``tell``, what a long start does to ``tell_start``."""
    async with HubClient(hub_address) as hub:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            registered: Mapping[str, int] | None = None
            # No answer is the finding itself: ``registered`` stays None, and the hub counts as silent.
            with contextlib.suppress(RlserveError):
                actors = await hub.list_actors()
                registered = {actor.actor_id: actor.pid for actor in actors}
                starting = {name_of(a): a.status.get(DOING, "") for a in actors if a.kind is ActorKind.STARTING}
                for name, doing, seconds in starts.look(starting, time.monotonic()):
                    tell_start(name, doing, seconds)
            for text in silences.look(living(), registered, time.monotonic()):
                tell(text)


def _state(pid: int) -> str:
    try:
        # "stopped" (a debugger, Ctrl-Z), "disk-sleep" and "running" call for different measures.
        return str(psutil.Process(pid).status())
    except psutil.Error:
        return "gone"
