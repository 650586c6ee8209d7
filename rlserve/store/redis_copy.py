"""Puts a copy of a store into Redis, in the place of what is there."""

from collections.abc import Iterator
from pathlib import Path

from rlserve.store.copy_file import StoreCopy, reading_copy
from rlserve.store.redis_link import Command, RedisLink
from rlserve.store.redis_scripts import FORMAT, KEYS, MOVE
from rlserve.store.redis_store import key_of, keys_of, row_of

BATCH = 500
"""Commands sent at once; any number will do that is small in memory."""


def put_back(link: RedisLink, prefix: str, copy: Path) -> str:
    """Replace the store under ``prefix`` at once; returns the prefix under which the old one is kept."""
    partial, replaced = f"{prefix}.partial", f"{prefix}.replaced"
    link.call("DEL", *keys_of(partial))
    with reading_copy(copy) as store:
        commands: list[Command] = []
        for command in _commands(store, partial):
            commands.append(command)
            if len(commands) >= BATCH:
                link.batch(commands)
                commands = []
        if commands:
            link.batch(commands)
    # Whole before it takes the place: a crash until here leaves the old store.
    moved = [key_of(where, name) for name in KEYS for where in (partial, prefix, replaced)]
    link.run(MOVE, moved)
    return replaced


def _commands(store: StoreCopy, prefix: str) -> Iterator[Command]:
    def key(name: str) -> str:
        return key_of(prefix, name)

    newest = received = 0
    deleted: int | None = None
    for group in store.groups:
        group_id, newest, received = group.info.group_id, max(newest, group.arrival), received + 1
        yield "HSET", key("groups"), group_id, row_of(group)
        if group.payload is not None:
            yield "HSET", key("payloads"), group_id, group.payload
        if group.state == "queued":
            yield "ZADD", key("queue"), group.arrival, group_id
            continue
        counter = "consumed" if group.state == "consumed" else f"dropped:{group.reason}"
        yield "HINCRBY", key("counts"), counter, 1
        if group.step is not None and group.payload is not None:
            yield "ZADD", key("left"), group.step, group_id
        elif group.step is not None:
            deleted = max(group.step, deleted or group.step)
    if received:
        yield "HSET", key("counts"), "received", received
    for reason, total in store.rejections.items():
        yield "HSET", key("rejections"), reason, total
    own = ("store_id", "sequence")
    for fact, value in store.facts.items():
        yield "HSET", key("meta" if fact in own else "facts"), fact, value
    yield "HSET", key("meta"), "format", FORMAT, "arrival", newest, "writes", 0
    if deleted is not None:
        yield "HSET", key("meta"), "deleted", deleted
