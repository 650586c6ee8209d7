"""The environments in the mixture, as servers register and go: a pure state machine.

Environments of the run's configuration keep their split and weight. Any other that is registered with a weight joins
with its training split, and leaves as soon as it is unregistered. A configured one leaves only when its server has
been gone for a grace, so that a restart goes unnoticed, and only while there is something else to draw from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.plugins import HELD_OUT_SPLITS
from rlserve.records import EnvironmentSpec

GRACE_SECONDS = 5.0
"""Longer than a supervised environment server needs to be started again."""
TRAINING_SPLIT = "train"


@dataclass(frozen=True, slots=True)
class Change:
    """What an update changes."""

    mixture: tuple[MixtureEntry, ...]
    """The mixture from now on."""
    joined: tuple[str, ...]
    left: tuple[str, ...]
    """Names of environments."""


class Catalogue:
    """The mixture, from what is registered. Times are passed in, in monotonic seconds.

    Example: ``home`` is configured, ``guest`` registers with weight 0.5: ``update`` gives both, ``guest`` joined. When
    ``guest`` is unregistered the next update has it in ``left``.
    """

    def __init__(self, configured: Sequence[MixtureEntry], *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._configured = tuple(configured)
        self._grace_seconds = grace_seconds
        self._present = self._configured
        self._gone_since: dict[str, float] = {}
        self._seen: set[str] = set()

    @property
    def present(self) -> tuple[MixtureEntry, ...]:
        """The mixture at the moment."""
        return self._present

    def update(self, specs: Sequence[EnvironmentSpec], now: float) -> Change:
        """The mixture when ``specs`` are registered at ``now``."""
        registered = {spec.name: spec for spec in specs}
        before = {i.environment for i in self._present}
        guests = self._guests(registered)
        staying = [i for i in self._configured if not self._is_gone(i.environment, registered, now)]
        # Never empty: when all are gone, the leases of the configured ones wait for their servers.
        self._present = (*staying, *guests) if staying or guests else self._configured
        after = {i.environment for i in self._present}
        return Change(self._present, joined=tuple(sorted(after - before)), left=tuple(sorted(before - after)))

    def _guests(self, registered: Mapping[str, EnvironmentSpec]) -> list[MixtureEntry]:
        configured = {i.environment for i in self._configured}
        found = []
        # Sorted: the pattern of a mixture depends on its order, which must not depend on who registered first.
        for name, spec in sorted(registered.items()):
            split = training_split(spec)
            if name not in configured and spec.weight > 0 and split is not None:
                found.append(MixtureEntry(name, split, spec.weight, spec.sampling))
        return found

    def _is_gone(self, name: str, registered: Mapping[str, EnvironmentSpec], now: float) -> bool:
        if name in registered:
            self._seen.add(name)
            self._gone_since.pop(name, None)
        # The grace begins only after a first registration: at the start a server may come up later than the learner.
        elif name in self._seen:
            return now - self._gone_since.setdefault(name, now) >= self._grace_seconds
        return False


def training_split(spec: EnvironmentSpec) -> str | None:
    """The split that training may draw from: ``train``, else the first that is not held out; None without one."""
    open_splits = [split for split in sorted(spec.splits) if split not in (HELD_OUT_SPLITS | set(spec.held_out))]
    return TRAINING_SPLIT if TRAINING_SPLIT in open_splits else next(iter(open_splits), None)
