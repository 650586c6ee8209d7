"""Environments registered while a run goes on: the specs that servers offer, and which of them are active.

Rollout workers find environment servers among the registry's actors, by the names that these serve. So each active
spec belongs to an actor: the server that registered it, or, for a standalone spec (``rlserve env register`` without
``--keep``), a placeholder that this module adds and removes.

The newest version of a name is active, on all servers that offer it. Other offers are kept inactive and become active
when the newer ones are withdrawn or their servers die. A standalone spec never replaces one of a live server.
"""

import logging
import os
import re
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote

from rlserve.actors.hub.registry import Registry
from rlserve.errors import InvalidRequest, LimitExceeded, UnknownName
from rlserve.records import Actor, ActorKind, EnvironmentSpec

logger = logging.getLogger(__name__)

MAX_OFFERS = 4096
"""Bounds memory against a faulty client; any value far above the size of a real run will do."""
MAX_STANDALONE, MAX_STANDALONE_PER_HOST = 256, 64
"""Standalone specs stay until someone unregisters them, so the bound is lower, and one host cannot use it up."""
SHOWN_NAMES = 32
"""Names listed in an error: a screenful."""
STANDALONE = ""
"""Registration id of a standalone spec."""


@dataclass(slots=True)
class _Offer:
    spec: EnvironmentSpec
    number: int
    """Order of arrival: of several active offers the latest is listed."""
    host: str
    """Where the request came from."""
    withdrawn: bool = False
    """Unregistered by a client; the next heartbeat of its server restores it."""


_Key = tuple[str, str]
"""Name and registration id."""


class EnvironmentRegistry:
    """Specs by (name, registration). Several servers may offer one name in one version; the latest is listed.

    Example, with a registry in which ``server`` is registered::

        environments.register(spec, server)    # workers find "math" at the server
        environments.unregister("math")        # ... and now they do not
        environments.restore(server)           # the next heartbeat of the server: they do again
        registry.deregister(server)            # the spec is removed with its server
    """

    def __init__(self, registry: Registry, new_id: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self._registry = registry
        self._new_id = new_id
        self._offers: dict[_Key, _Offer] = {}
        self._kept_out: set[str] = set()
        self._count = 0
        self._placeholders: dict[str, str] = {}
        """Registration ids of the placeholder actors, by name."""

    def register(self, spec: EnvironmentSpec, registration_id: str, *, host: str = "", again: bool = False) -> None:
        """Add or replace a spec; it is removed with its actor unless it is standalone.

        ``again`` registers it even if it was kept out. Raises UnknownName for a registration that has ended,
        LimitExceeded when there are too many, InvalidRequest for an address that is not the actor's and, if
        standalone, for a name that a live server offers in another version or a version older than the present one.
        """
        # First: offers of dead servers must neither hold the name nor count to the limit.
        self.remove_expired()
        key = (spec.name, registration_id)
        if registration_id == STANDALONE:
            self._check_standalone(spec, host)
        else:
            self._check_address(spec, registration_id)
        if key not in self._offers and len(self._offers) >= MAX_OFFERS:
            raise LimitExceeded(f"environments: {MAX_OFFERS} are registered, which is the limit")
        # All checks are above: a refused request changes nothing.
        if again:
            self._kept_out.discard(spec.name)
        self._count += 1
        self._offers.pop(key, None)
        self._offers[key] = _Offer(spec, self._count, host)
        self._update_actors(spec.name)
        if key not in self._active_offers(spec.name):
            logger.warning(
                "environment %r, version %r of %s: inactive; %s",
                spec.name,
                spec.version,
                spec.address,
                "it is kept out" if spec.name in self._kept_out else "a newer version is active",
            )

    def unregister(self, name: str, *, keep_out: bool = False) -> None:
        """Remove an environment on all servers. Raises UnknownName.

        The next heartbeat of a live server restores it, unless ``keep_out``.
        """
        self.remove_expired()
        keys = [key for key in self._offers if key[0] == name]
        if not keys:
            known = sorted({known for known, _ in self._offers})
            more = f" and {len(known) - SHOWN_NAMES} more" if len(known) > SHOWN_NAMES else ""
            shown = ", ".join(known[:SHOWN_NAMES]) or "none"
            raise UnknownName(f"name: {name!r} is not registered (known: {shown}{more})")
        if keep_out:
            self._kept_out.add(name)
        for key in keys:
            if key[1] == STANDALONE:
                del self._offers[key]
            else:
                self._offers[key].withdrawn = True
        logger.warning("environment %r: unregistered%s", name, ", and kept out until it is registered again" * keep_out)
        self._update_actors(name)

    def restore(self, registration_id: str) -> None:
        """Restore a live server's withdrawn specs; called at its heartbeat."""
        for (name, owner), offer in list(self._offers.items()):
            if owner == registration_id and offer.withdrawn and name not in self._kept_out:
                offer.withdrawn = False
                logger.warning("environment %r: restored; its server at %s is alive", name, offer.spec.address)
                self._update_actors(name)

    def standalone(self) -> list[tuple[EnvironmentSpec, str]]:
        """The standalone specs in the order of their arrival, each with the host that it came from."""
        kept = [offer for (_, owner), offer in self._offers.items() if owner == STANDALONE]
        return [(offer.spec, offer.host) for offer in kept]

    def kept_out(self) -> list[str]:
        """Names that stay out until they are registered again on purpose, sorted."""
        return sorted(self._kept_out)

    def keep_out(self, names: Iterable[str]) -> None:
        """Keep names out, whether they are registered or not."""
        for name in names:
            self._kept_out.add(name)
            self._update_actors(name)

    def all(self) -> list[EnvironmentSpec]:
        """One active spec per name, sorted by name."""
        self.remove_expired()
        specs = []
        for name in sorted({name for name, _ in self._offers}):
            active = self._active_offers(name)
            if active:
                specs.append(max(active.values(), key=lambda offer: offer.number).spec)
        return specs

    def remove_expired(self) -> None:
        """Remove the offers of dead actors, which may activate older ones. Call it a few times per timeout."""
        # The id of a standalone spec is empty: no heartbeat keeps it, and no silence removes it.
        gone = [key for key in self._offers if key[1] and not self._registry.is_live(key[1])]
        for key in gone:
            del self._offers[key]
        for name in {name for name, _ in gone}:
            self._update_actors(name)

    def _active_offers(self, name: str) -> dict[_Key, _Offer]:
        """The offers that workers may find. Live servers take precedence over standalone specs."""
        live = {key: o for key, o in self._offers.items() if key[0] == name and not o.withdrawn}
        if name in self._kept_out or not live:
            return {}
        served = [offer for (_, owner), offer in live.items() if owner != STANDALONE]
        newest = max((o.spec.version for o in served or live.values()), key=_version_key)
        return {key: offer for key, offer in live.items() if offer.spec.version == newest}

    def _update_actors(self, name: str) -> None:
        """Make the registry's actors serve the name exactly where it is active."""
        active = self._active_offers(name)
        for key in [key for key in self._offers if key[0] == name and key[1] != STANDALONE]:
            self._set_served(name, key[1], key in active)
        standalone = active.get((name, STANDALONE))
        present = self._placeholders.get(name)
        if standalone is None and present is not None:
            self._registry.deregister(self._placeholders.pop(name))
        elif standalone is not None and (
            present is None or self._registry.actor_of(present).address != standalone.spec.address
        ):
            # Also for a new address: the registry reports that the old placeholder left, and workers close their
            # channel.
            self._placeholders[name] = self._registry.add_permanent(self._placeholder(standalone.spec))

    def _set_served(self, name: str, registration_id: str, serves: bool) -> None:
        # It may have left since the last remove_expired().
        if not self._registry.is_live(registration_id):
            return
        present = self._registry.actor_of(registration_id).serves
        # In order: set_serves compares tuples, and equal ones make no event.
        wanted = dict.fromkeys((*present, name)) if serves else [other for other in present if other != name]
        self._registry.set_serves(registration_id, tuple(wanted))

    def _placeholder(self, spec: EnvironmentSpec) -> Actor:
        return Actor(
            actor_id=f"environment/{quote(spec.name, safe='')}",
            kind=ActorKind.ENVIRONMENT,
            address=spec.address,
            incarnation=self._new_id(),
            host=socket.gethostname(),
            pid=os.getpid(),
            serves=(spec.name,),
        )

    def _check_address(self, spec: EnvironmentSpec, registration_id: str) -> None:
        if not self._registry.is_live(registration_id):
            raise UnknownName(f"lease_id: {registration_id[:64]!r} has ended or never was; register the actor again")
        actor = self._registry.actor_of(registration_id)
        # Workers dial the actor's address: another one in the spec would only mislead those who list it.
        if spec.address != actor.address:
            raise InvalidRequest(
                f"spec.address: is {spec.address!r}, but the registered actor, {actor.actor_id!r}, is at "
                f"{actor.address!r}; register an actor with that address, or leave lease_id out"
            )

    def _check_standalone(self, spec: EnvironmentSpec, host: str) -> None:
        present = {
            owner: offer for (name, owner), offer in self._offers.items() if name == spec.name and not offer.withdrawn
        }
        for owner, offer in present.items():
            if _version_key(offer.spec.version) > _version_key(spec.version):
                raise InvalidRequest(
                    f"spec.version: is {spec.version!r}, but {spec.name!r} is registered in version "
                    f"{offer.spec.version!r}; give a version that is not older, or unregister it first",
                    reason="older_version",
                )
            if owner != STANDALONE and offer.spec.version != spec.version:
                raise InvalidRequest(
                    f"spec.name: {spec.name!r} is held by a live server at {offer.spec.address} in version "
                    f"{offer.spec.version!r}; register a server (`rlserve env register --keep`), or unregister it "
                    "first (`rlserve env unregister`)",
                    reason="held",
                )
        # A replacement adds none to the count.
        if STANDALONE in present:
            return
        hosts = Counter(offer.host for (_, owner), offer in self._offers.items() if owner == STANDALONE)
        if hosts[host] >= MAX_STANDALONE_PER_HOST or hosts.total() >= MAX_STANDALONE:
            raise LimitExceeded(
                f"environments: {hosts[host]} that stay until unregistered came from {host or 'this host'} "
                f"({MAX_STANDALONE_PER_HOST} at most), {hosts.total()} in all ({MAX_STANDALONE} at most); unregister "
                "some, or register a server (`rlserve env register --keep`)"
            )


def _version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Sort key of versions: numbers as numbers, ``1.10`` after ``1.9``; other parts as text."""
    # Pairs, since Python does not compare numbers with text.
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"[.+-]", version))
