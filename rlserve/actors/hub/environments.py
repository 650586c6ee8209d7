"""Environments registered while a run goes on: pure state, tied to the leases of the registry.

Rollout workers find whoever gives tasks among the registry's actors, by the names that they serve. So each spec
stands on an actor: that of its lease, or, for a spec without a lease, one that the book enters and removes itself.
A newer version takes the name away from the actors of older ones.
"""

import os
import re
import socket
import uuid
from collections.abc import Callable

from rlserve.actors.hub.registry import Registry
from rlserve.errors import InvalidRequest, LimitExceeded, UnknownName
from rlserve.records import Actor, ActorKind, EnvironmentSpec

MAX_ENVIRONMENTS = 4096
UNTIL_UNREGISTERED = ""
"""Lease id of an environment that no actor takes along when it goes."""


class EnvironmentBook:
    """Specs by (name, lease). Several servers may offer one name in one version; the latest speaks for it."""

    def __init__(self, registry: Registry, new_id: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self._registry = registry
        self._new_id = new_id
        self._specs: dict[tuple[str, str], EnvironmentSpec] = {}
        self._held: dict[str, str] = {}
        """Leases of the actors that stand for specs without one, by name."""

    def register(self, spec: EnvironmentSpec, lease_id: str) -> None:
        """Add or replace; with a lease, the environment leaves with its actor.

        Raises UnknownName for a lease that has ended, LimitExceeded when the book is full, InvalidRequest for a
        version older than a live one or an address that is not the actor's.
        """
        self._sweep()
        if lease_id != UNTIL_UNREGISTERED:
            self._check_address(spec, lease_id)
        self._check_version(spec)
        key = (spec.name, lease_id)
        if key not in self._specs and len(self._specs) >= MAX_ENVIRONMENTS:
            raise LimitExceeded(f"environments: {MAX_ENVIRONMENTS} are registered, which is the limit")
        for older in [k for k, s in self._specs.items() if k[0] == spec.name and s.version != spec.version]:
            self._remove(older)
        self._specs.pop(key, None)
        self._specs[key] = spec
        self._stand(spec, lease_id)

    def unregister(self, name: str) -> None:
        """Remove the environment, whoever offers it. Raises UnknownName."""
        self._sweep()
        keys = [key for key in self._specs if key[0] == name]
        if not keys:
            known = ", ".join(sorted({known for known, _ in self._specs})) or "none"
            raise UnknownName(f"name: {name!r} is not registered (known: {known})")
        for key in keys:
            self._remove(key)

    def all(self) -> list[EnvironmentSpec]:
        """One spec a name, sorted by name."""
        self._sweep()
        latest = {name: spec for (name, _), spec in self._specs.items()}
        return [latest[name] for name in sorted(latest)]

    def _check_address(self, spec: EnvironmentSpec, lease_id: str) -> None:
        if not self._registry.is_live(lease_id):
            raise UnknownName(f"lease_id: {lease_id[:64]!r} has ended or never was; register the actor again")
        actor = self._registry.actor_of(lease_id)
        if spec.address != actor.address:
            raise InvalidRequest(
                f"spec.address: is {spec.address!r}, but the actor of the lease, {actor.actor_id!r}, is at "
                f"{actor.address!r}; register an actor with that address, or leave the lease out"
            )

    def _check_version(self, spec: EnvironmentSpec) -> None:
        for (name, _), present in self._specs.items():
            if name == spec.name and _order(present.version) > _order(spec.version):
                raise InvalidRequest(
                    f"spec.version: is {spec.version!r}, but {name!r} is registered in version {present.version!r}; "
                    "give a version that is not older, or unregister it first",
                    reason="older_version",
                )

    def _stand(self, spec: EnvironmentSpec, lease_id: str) -> None:
        if lease_id != UNTIL_UNREGISTERED:
            serves = self._registry.actor_of(lease_id).serves
            self._registry.set_serves(lease_id, tuple(dict.fromkeys((*serves, spec.name))))
            return
        self._held[spec.name] = self._registry.hold(
            Actor(
                actor_id=f"environment/{spec.name}",
                kind=ActorKind.ENVIRONMENT,
                address=spec.address,
                incarnation=self._new_id(),
                host=socket.gethostname(),
                pid=os.getpid(),
                serves=(spec.name,),
            )
        )

    def _remove(self, key: tuple[str, str]) -> None:
        name, lease_id = key
        del self._specs[key]
        if lease_id == UNTIL_UNREGISTERED:
            self._registry.deregister(self._held.pop(name))
        elif self._registry.is_live(lease_id):
            serves = self._registry.actor_of(lease_id).serves
            self._registry.set_serves(lease_id, tuple(served for served in serves if served != name))

    def _sweep(self) -> None:
        for key in [key for key in self._specs if key[1] and not self._registry.is_live(key[1])]:
            del self._specs[key]


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """Versions by their numbers, ``1.10`` after ``1.9``; anything else by its text."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.+-]", version))
