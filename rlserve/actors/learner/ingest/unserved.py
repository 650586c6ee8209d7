"""Warns of environments and verifiers that the run needs and no server has: a pure state machine."""

from collections.abc import Callable, Collection, Sequence

from rlserve.records import EnvironmentSpec

PATIENCE_SECONDS = 15.0
"""A server may take so long to start, or to be started again, before there is a warning."""

BRING_BACK = "start one; what `rlserve env unregister` took out, `rlserve env register` brings back"


class Unserved:
    """Configured environments, and their verifiers, that have no server.

    Example: ``update`` once a second without the environment ``math``: after 15 s one warning; when ``math`` is
    registered the message is empty again, and its next absence warns again.
    """

    def __init__(
        self, environments: Collection[str], warn: Callable[..., None], *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._environments = tuple(environments)
        self._warn = warn
        self._patience_seconds = patience_seconds
        self._since: dict[str, float] = {}
        self._warned: set[str] = set()

    @property
    def message(self) -> str:
        """What was warned of and still holds; empty when all is served."""
        return "; ".join(f"no server offers {what}" for what in self._since if what in self._warned)

    def update(self, specs: Sequence[EnvironmentSpec], verifiers: Collection[str], now: float) -> None:
        """Compare with what is registered at ``now``, in monotonic seconds."""
        missing = {what: (found, cure) for what, found, cure in self._missing(specs, verifiers)}
        self._since = {what: self._since.get(what, now) for what in missing}
        self._warned &= missing.keys()
        for what, since in self._since.items():
            if now - since >= self._patience_seconds and what not in self._warned:
                self._warned.add(what)
                found, cure = missing[what]
                self._warn(
                    f"no server has offered {what} for {now - since:.0f} s ({found}): its tasks wait; see the log of "
                    f"its server, or {cure}",
                    cause=f"unserved: {what}",
                )

    def _missing(self, specs: Sequence[EnvironmentSpec], verifiers: Collection[str]) -> list[tuple[str, str, str]]:
        """(what is missing, what is served instead, the cure) for each."""
        registered = {spec.name: spec for spec in specs}
        found = []
        for name in self._environments:
            if name not in registered:
                found.append((f"environment {name!r}", f"served are {_listed(registered)}", BRING_BACK))
            elif (verifier := registered[name].verifier) and verifier not in verifiers:
                what = f"verifier {verifier!r} of environment {name!r}"
                found.append((what, f"served are {_listed(verifiers)}", "start one"))
        return found


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
