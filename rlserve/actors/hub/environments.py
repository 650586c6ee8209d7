"""Environments registered while a run goes on: pure state, tied to the leases of the registry."""

from rlserve.actors.hub.registry import Registry
from rlserve.errors import LimitExceeded, UnknownName
from rlserve.records import EnvironmentSpec

MAX_ENVIRONMENTS = 4096
UNTIL_UNREGISTERED = ""
"""Lease id of an environment that no actor takes along when it goes."""


class EnvironmentBook:
    """Specs by (name, lease). Several servers may offer one name; the latest live one speaks for it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._specs: dict[tuple[str, str], EnvironmentSpec] = {}

    def register(self, spec: EnvironmentSpec, lease_id: str) -> None:
        """Add or replace; with a lease, the environment leaves with its actor.

        Raises UnknownName for a lease that has ended, LimitExceeded when the book is full.
        """
        if lease_id != UNTIL_UNREGISTERED and not self._registry.is_live(lease_id):
            raise UnknownName(f"lease_id: {lease_id[:64]!r} has ended or never was; register the actor again")
        self._sweep()
        key = (spec.name, lease_id)
        self._specs.pop(key, None)
        if len(self._specs) >= MAX_ENVIRONMENTS:
            raise LimitExceeded(f"environments: {MAX_ENVIRONMENTS} are registered, which is the limit")
        self._specs[key] = spec

    def unregister(self, name: str) -> None:
        """Remove the environment, whoever offers it. Raises UnknownName."""
        self._sweep()
        keys = [key for key in self._specs if key[0] == name]
        if not keys:
            known = ", ".join(sorted({known for known, _ in self._specs})) or "none"
            raise UnknownName(f"name: {name!r} is not registered (known: {known})")
        for key in keys:
            del self._specs[key]

    def all(self) -> list[EnvironmentSpec]:
        """One spec a name, sorted by name."""
        self._sweep()
        latest = {name: spec for (name, _), spec in self._specs.items()}
        return [latest[name] for name in sorted(latest)]

    def _sweep(self) -> None:
        for key in [key for key in self._specs if key[1] and not self._registry.is_live(key[1])]:
            del self._specs[key]
