"""Environments registered while a run goes on: what each living server offers, and which of it stands.

Rollout workers find whoever gives tasks among the registry's actors, by the names that they serve. So each spec
stands on an actor: that of its lease, or, for a spec without a lease, one that the book enters and removes itself.

Of a name the newest version stands, on all servers that offer it. Offers of others stay known: when what stood is
taken back or its server dies, theirs stand again. A spec without a lease never takes a name from a live server.
"""

import logging
import os
import re
import socket
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from rlserve.actors.hub.registry import Registry
from rlserve.errors import InvalidRequest, LimitExceeded, UnknownName
from rlserve.records import Actor, ActorKind, EnvironmentSpec

logger = logging.getLogger(__name__)

MAX_OFFERS = 4096
MAX_LEASELESS, MAX_LEASELESS_OF_ONE_HOST = 256, 64
"""Specs that stay until somebody takes them back; so nobody may leave many behind."""
SHOWN_NAMES = 32
UNTIL_UNREGISTERED = ""
"""Lease id of an environment that no actor takes along when it goes."""


@dataclass(slots=True)
class _Offer:
    spec: EnvironmentSpec
    number: int
    """Later ones speak for a name before earlier ones."""
    host: str
    """Where the request came from."""
    withdrawn: bool = False
    """Unregistered by somebody; its server's next heartbeat asserts it again."""


_Key = tuple[str, str]
"""Name and lease id."""


class EnvironmentBook:
    """Specs by (name, lease). Several servers may offer one name in one version; the latest speaks for it."""

    def __init__(self, registry: Registry, new_id: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self._registry = registry
        self._new_id = new_id
        self._offers: dict[_Key, _Offer] = {}
        self._kept_out: set[str] = set()
        self._count = 0
        self._held: dict[str, str] = {}
        """Leases of the actors that stand for specs without one, by name."""

    def register(self, spec: EnvironmentSpec, lease_id: str, *, host: str = "", again: bool = False) -> None:
        """Add or replace; with a lease, the environment leaves with its actor.

        ``again``: also when it was kept out. Raises UnknownName for a lease that has ended, LimitExceeded when there
        are too many, InvalidRequest for an address that is not the actor's and, without a lease, for a name that a
        live server holds in another version or a version that is older than the present one.
        """
        self.sweep()
        key = (spec.name, lease_id)
        if lease_id == UNTIL_UNREGISTERED:
            self._check_leaseless(spec, host)
        else:
            self._check_address(spec, lease_id)
        if key not in self._offers and len(self._offers) >= MAX_OFFERS:
            raise LimitExceeded(f"environments: {MAX_OFFERS} are registered, which is the limit")
        if again:
            self._kept_out.discard(spec.name)
        self._count += 1
        self._offers.pop(key, None)
        self._offers[key] = _Offer(spec, self._count, host)
        self._settle(spec.name)
        if key not in self._standing(spec.name):
            logger.warning(
                "environment %r, version %r of %s: waits; %s",
                spec.name,
                spec.version,
                spec.address,
                "it is kept out" if spec.name in self._kept_out else "a newer version stands",
            )

    def unregister(self, name: str, *, keep_out: bool = False) -> None:
        """Remove the environment, whoever offers it. Raises UnknownName.

        A live server's next heartbeat brings it back, unless it is to be kept out.
        """
        self.sweep()
        keys = [key for key in self._offers if key[0] == name]
        if not keys:
            known = sorted({known for known, _ in self._offers})
            more = f" and {len(known) - SHOWN_NAMES} more" if len(known) > SHOWN_NAMES else ""
            shown = ", ".join(known[:SHOWN_NAMES]) or "none"
            raise UnknownName(f"name: {name!r} is not registered (known: {shown}{more})")
        if keep_out:
            self._kept_out.add(name)
        for key in keys:
            if key[1] == UNTIL_UNREGISTERED:
                del self._offers[key]
            else:
                self._offers[key].withdrawn = True
        logger.warning("environment %r: unregistered%s", name, ", and kept out until it is registered again" * keep_out)
        self._settle(name)

    def assert_again(self, lease_id: str) -> None:
        """A server is alive: what it offers and somebody took out comes back."""
        for (name, lease), offer in list(self._offers.items()):
            if lease == lease_id and offer.withdrawn and name not in self._kept_out:
                offer.withdrawn = False
                logger.warning("environment %r: is back, for its server at %s lives", name, offer.spec.address)
                self._settle(name)

    def all(self) -> list[EnvironmentSpec]:
        """One spec a name, sorted by name."""
        self.sweep()
        specs = []
        for name in sorted({name for name, _ in self._offers}):
            standing = self._standing(name)
            if standing:
                specs.append(max(standing.values(), key=lambda offer: offer.number).spec)
        return specs

    def sweep(self) -> None:
        """Forget what offered by actors that are gone; what waited for it stands again. Call it now and then."""
        gone = [key for key in self._offers if key[1] and not self._registry.is_live(key[1])]
        for key in gone:
            del self._offers[key]
        for name in {name for name, _ in gone}:
            self._settle(name)

    def _standing(self, name: str) -> dict[_Key, _Offer]:
        """What workers may find. Live servers come before specs without a lease."""
        live = {key: o for key, o in self._offers.items() if key[0] == name and not o.withdrawn}
        if name in self._kept_out or not live:
            return {}
        leased = [offer for (_, lease), offer in live.items() if lease != UNTIL_UNREGISTERED]
        newest = max((o.spec.version for o in leased or live.values()), key=_order)
        return {key: offer for key, offer in live.items() if offer.spec.version == newest}

    def _settle(self, name: str) -> None:
        """Make the registry's actors serve the name exactly where it stands."""
        standing = self._standing(name)
        for key in [key for key in self._offers if key[0] == name and key[1] != UNTIL_UNREGISTERED]:
            self._serve(name, key[1], key in standing)
        leaseless = standing.get((name, UNTIL_UNREGISTERED))
        held = self._held.get(name)
        if leaseless is None and held is not None:
            self._registry.deregister(self._held.pop(name))
        elif leaseless is not None and (
            held is None or self._registry.actor_of(held).address != leaseless.spec.address
        ):
            self._held[name] = self._registry.hold(self._stand_in(leaseless.spec))

    def _serve(self, name: str, lease_id: str, serves: bool) -> None:
        if not self._registry.is_live(lease_id):
            return
        present = self._registry.actor_of(lease_id).serves
        wanted = dict.fromkeys((*present, name)) if serves else [served for served in present if served != name]
        self._registry.set_serves(lease_id, tuple(wanted))

    def _stand_in(self, spec: EnvironmentSpec) -> Actor:
        return Actor(
            actor_id=f"environment/{quote(spec.name, safe='')}",
            kind=ActorKind.ENVIRONMENT,
            address=spec.address,
            incarnation=self._new_id(),
            host=socket.gethostname(),
            pid=os.getpid(),
            serves=(spec.name,),
        )

    def _check_address(self, spec: EnvironmentSpec, lease_id: str) -> None:
        if not self._registry.is_live(lease_id):
            raise UnknownName(f"lease_id: {lease_id[:64]!r} has ended or never was; register the actor again")
        actor = self._registry.actor_of(lease_id)
        if spec.address != actor.address:
            raise InvalidRequest(
                f"spec.address: is {spec.address!r}, but the actor of the lease, {actor.actor_id!r}, is at "
                f"{actor.address!r}; register an actor with that address, or leave the lease out"
            )

    def _check_leaseless(self, spec: EnvironmentSpec, host: str) -> None:
        present = {
            lease: offer for (name, lease), offer in self._offers.items() if name == spec.name and not offer.withdrawn
        }
        for lease, offer in present.items():
            if _order(offer.spec.version) > _order(spec.version):
                raise InvalidRequest(
                    f"spec.version: is {spec.version!r}, but {spec.name!r} is registered in version "
                    f"{offer.spec.version!r}; give a version that is not older, or unregister it first",
                    reason="older_version",
                )
            if lease != UNTIL_UNREGISTERED and offer.spec.version != spec.version:
                raise InvalidRequest(
                    f"spec.name: {spec.name!r} is held by a live server at {offer.spec.address} in version "
                    f"{offer.spec.version!r}; register with a lease (`rlserve env register --keep`), or take it out "
                    "first (`rlserve env unregister`)",
                    reason="held",
                )
        if UNTIL_UNREGISTERED in present:
            return
        hosts = Counter(offer.host for (_, lease), offer in self._offers.items() if lease == UNTIL_UNREGISTERED)
        if hosts[host] >= MAX_LEASELESS_OF_ONE_HOST or hosts.total() >= MAX_LEASELESS:
            raise LimitExceeded(
                f"environments: {hosts[host]} that stay until unregistered came from {host or 'this host'} "
                f"({MAX_LEASELESS_OF_ONE_HOST} at most), {hosts.total()} in all ({MAX_LEASELESS} at most); unregister "
                "some, or register with a lease (`rlserve env register --keep`)"
            )


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """Versions by their numbers, ``1.10`` after ``1.9``; anything else by its text."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"[.+-]", version))
