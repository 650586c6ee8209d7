"""What a Redis server must be set to so that it loses no group, and the command that mends each fault."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlserve.errors import ConfigError, StateCorrupt
from rlserve.store.base import StoreProblem
from rlserve.store.redis_link import RedisLink

OLDEST = (6, 2)
"""The oldest version against which the store is tested."""
NEARLY_FULL = 0.9
"""Of the memory limit: what is left is some minutes of groups."""


def setting_problems(link: RedisLink, *, replicas: int) -> Iterator[StoreProblem]:
    """Faults and warnings about a server, the gravest first. Raises what ``link`` raises."""
    facts = link.call("INFO")
    yield from _version(facts)
    yield from _persistence(facts, link)
    yield from _memory(facts, link)
    attached = int(facts.get("connected_slaves", 0))
    if attached < replicas:
        yield StoreProblem(
            f"store.options.replicas: is {replicas}, but {attached} replicas are attached to {link.url}; attach more "
            "(`redis-cli -h REPLICA replicaof HOST PORT`), or lower it"
        )


def mending(link: RedisLink, setting: str) -> str:
    """The command that changes a setting and keeps it."""
    command = f"redis-cli -u {link.url} config"
    return f"`{command} set {setting} && {command} rewrite`"


def _version(facts: Mapping[str, Any]) -> Iterator[StoreProblem]:
    version = str(facts.get("redis_version", "0.0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield StoreProblem(f"store.options.url: the server is Redis {version}; take {oldest} or newer")


def _persistence(facts: Mapping[str, Any], link: RedisLink) -> Iterator[StoreProblem]:
    if not facts.get("aof_enabled"):
        yield StoreProblem(
            f"store.options.url: {link.url} keeps no append-only file, and would lose the queue when it restarts: "
            f"{mending(link, 'appendonly yes')}"
        )
    if facts.get("aof_last_write_status", "ok") != "ok":
        yield StoreProblem(f"store.options.url: {link.url} cannot write its append-only file; make room on its disk")
    if facts.get("rdb_last_bgsave_status", "ok") != "ok" and _setting(link, "stop-writes-on-bgsave-error") != "no":
        yield StoreProblem(
            f"store.options.url: {link.url} refuses writes, because its last snapshot failed; see its log, or, since "
            f"the append-only file is what counts: {mending(link, 'stop-writes-on-bgsave-error no')}"
        )
    sync = _setting(link, "appendfsync")
    if sync == "no":
        yield StoreProblem(
            f"store.options.url: {link.url} leaves it to the kernel when its file is on the disk: a power failure may "
            f"lose half a minute: {mending(link, 'appendfsync everysec')}",
            is_fault=False,
        )
    elif not sync:
        yield StoreProblem(
            f"store.options.url: {link.url} does not tell its settings (CONFIG is refused); see to it that appendfsync "
            "is everysec or always",
            is_fault=False,
        )


def _memory(facts: Mapping[str, Any], link: RedisLink) -> Iterator[StoreProblem]:
    policy, limit = str(facts.get("maxmemory_policy", "noeviction")), int(facts.get("maxmemory", 0))
    # The volatile policies evict keys with an expiry alone, and a store has none.
    if policy.startswith("allkeys"):
        yield StoreProblem(
            f"store.options.url: {link.url} evicts keys at its memory limit (maxmemory-policy {policy}), which loses "
            f"groups: {mending(link, 'maxmemory-policy noeviction')}",
            is_fault=limit > 0,
        )
    if limit and int(facts.get("used_memory", 0)) > NEARLY_FULL * limit:
        yield StoreProblem(
            f"store.options.url: {link.url} uses {int(facts['used_memory']) / limit:.0%} of its memory limit "
            f"({limit / 2**20:.0f} MiB); at the limit the run waits: {mending(link, 'maxmemory BYTES')}",
            is_fault=False,
        )


def _setting(link: RedisLink, name: str) -> str:
    """A setting; empty where the server does not tell (hosted ones refuse CONFIG)."""
    try:
        found = link.call("CONFIG", "GET", name)
    except (ConfigError, StateCorrupt):  # not permitted, or no such command
        return ""
    return str(found[1].decode()) if found else ""
