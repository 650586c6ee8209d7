"""What the run needs and nobody serves: a pure state machine that is shown the hub's registry once a second."""

from collections.abc import Callable, Collection, Sequence

from rlserve.records import EnvironmentSpec

PATIENCE_SECONDS = 15.0
"""A server may take so long to start, or to start again, before people are told."""

BRING_BACK = "start one; what `rlserve env unregister` took out, `rlserve env register` brings back"


class Unserved:
    """Names configured environments, and their verifiers, that have no server."""

    def __init__(
        self, environments: Collection[str], warn: Callable[..., None], *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._environments = tuple(environments)
        self._warn = warn
        self._patience_seconds = patience_seconds
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    @property
    def message(self) -> str:
        """What people were told of and still holds; empty when all is served."""
        return "; ".join(f"nobody serves {what}" for what in self._since if what in self._told)

    def update(self, specs: Sequence[EnvironmentSpec], verifiers: Collection[str], now: float) -> None:
        """Take note of what is registered at ``now``, in seconds that never go back."""
        missing = {what: (found, cure) for what, found, cure in self._missing(specs, verifiers)}
        self._since = {what: self._since.get(what, now) for what in missing}
        self._told &= missing.keys()
        for what, since in self._since.items():
            if now - since >= self._patience_seconds and what not in self._told:
                self._told.add(what)
                found, cure = missing[what]
                self._warn(
                    f"nobody has served {what} for {now - since:.0f} s ({found}): its tasks wait; see the log of its "
                    f"server, or {cure}",
                    cause=f"unserved: {what}",
                )

    def _missing(self, specs: Sequence[EnvironmentSpec], verifiers: Collection[str]) -> list[tuple[str, str, str]]:
        """What is missing, what is there, and what helps."""
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
