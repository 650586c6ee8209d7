"""The store in a Redis server: for a learner whose disk may vanish, or one that moves from host to host.

Redis keeps everything in memory. It acknowledges a write once its append-only file has it, as far as the operating
system: killed, it loses nothing (with ``appendfsync everysec`` what waits behind a sync that takes long, two seconds at
most). A power failure loses the last second with ``everysec``, nothing with ``always``; a failover to a replica what
that had not received yet, nothing with the option ``replicas``. Each call checks that no write before it was lost, so
that a run ends with the reason instead of going on with a store older than itself.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.store import redis_scripts as scripts
from rlserve.store.base import GroupCounts, GroupInfo, QueuedGroup, Receipt, StoreMark
from rlserve.store.copy_file import StoreCopy, StoredGroup, write_copy
from rlserve.store.redis_link import RedisLink, ScriptRefused

PAGE = 256
"""Groups read at a time: a reply of megabytes would hold up other clients."""
DROPPED_FIELD = "dropped:"
STATES = {scripts.QUEUED: "queued", scripts.CONSUMED: "consumed", scripts.DROPPED: "dropped"}


class RedisStore:
    """A :class:`rlserve.store.base.Store` under a prefix of keys. Who opened it last alone can write."""

    def __init__(self, link: RedisLink, prefix: str, *, way_on: str) -> None:
        """Open or create it. ``way_on`` is the command that continues a run with a copy of its store.

        Raises StateCorrupt when it is not a store of this version.
        """
        self._link = link
        self._prefix = prefix
        self._way_on = way_on
        self._keys = keys_of(prefix)
        self._acknowledged = 0
        self._writer = ""
        with self._refusals():
            writer, writes, store_id = link.run(
                scripts.OPEN, self._keys, [scripts.FORMAT, secrets.token_hex(8), secrets.token_hex(16)]
            )
        self._writer, self._acknowledged, self.store_id = writer.decode(), writes, store_id.decode()

    def receive(self, info: GroupInfo, payload: bytes) -> bool:
        return self.receive_many([Receipt(info=info, payload=payload)], rejected={})[0]

    def receive_dropped(self, info: GroupInfo, reason: str) -> bool:
        return self.receive_many([Receipt(info=info, dropped=reason)], rejected={})[0]

    def receive_many(self, receipts: Sequence[Receipt], *, rejected: Mapping[str, int]) -> list[bool]:
        arguments: list[str | bytes | int] = [int(any(not r.dropped for r in receipts)), len(rejected)]
        for reason, count in rejected.items():
            arguments += (reason, count)
        for receipt in receipts:
            arguments += (receipt.info.group_id, _word(receipt.dropped), _packed(receipt.info), receipt.payload)
        return [bool(new) for new in self._write(scripts.RECEIVE, *arguments)]

    def knows(self, group_id: str) -> bool:
        return bool(self._link.call("HEXISTS", self._key("groups"), group_id))

    def consume(self, group_ids: Sequence[str], *, step: int) -> None:
        self._leave_queue(group_ids, scripts.CONSUMED, "", step)

    def drop(self, group_ids: Sequence[str], reason: str, *, step: int | None) -> None:
        self._leave_queue(group_ids, scripts.DROPPED, reason, step)

    def queued(self, limit: int | None = None) -> list[QueuedGroup]:
        last = -1 if limit is None else limit - 1
        ids = [] if limit == 0 else self._link.call("ZRANGE", self._key("queue"), 0, last)
        found: list[QueuedGroup] = []
        for page in (ids[at : at + PAGE] for at in range(0, len(ids), PAGE)):
            for group_id, payload in zip(page, self._link.call("HMGET", self._key("payloads"), *page), strict=True):
                if payload is None:
                    raise StateCorrupt(
                        f"store: the payload of queued group {group_id.decode()!r} is missing; resume from a checkpoint"
                    )
                found.append(QueuedGroup(group_id.decode(), payload))
        return found

    def counts(self) -> GroupCounts:
        pairs, queued, rows = self._link.run(scripts.COUNT, self._keys, writes=False)
        numbers = {name: int(number) for name, number in _table(pairs).items()}
        received = numbers.get("received", 0)
        if received != rows:
            raise StateCorrupt(
                f"store: received {received} groups, but {self._key('groups')} has {rows}; was something deleted? "
                f"Continue with the copy in the newest checkpoint: {self._way_on}"
            )
        return GroupCounts(
            received=received,
            consumed=numbers.get("consumed", 0),
            queued=queued,
            dropped={
                name.removeprefix(DROPPED_FIELD): number
                for name, number in numbers.items()
                if name.startswith(DROPPED_FIELD) and number
            },
        )

    def reject(self, reason: str) -> None:
        self.receive_many([], rejected={reason: 1})

    def rejections(self) -> Mapping[str, int]:
        found = self._link.call("HGETALL", self._key("rejections"))
        return {reason.decode(): int(total) for reason, total in sorted(found.items())}

    def checkpoint(self, step: int) -> None:
        self._write(scripts.CHECKPOINT, step)

    def rollback(self, step: int) -> None:
        self._write(scripts.ROLLBACK, step)

    def set_cursor(self, cursor: str) -> None:
        self.remember("cursor", cursor)

    def cursor(self) -> str | None:
        return self.recall("cursor")

    def remember(self, key: str, value: str) -> None:
        self._write(scripts.REMEMBER, key, value)

    def recall(self, key: str) -> str | None:
        found = self._link.call("HGET", self._key("facts"), key)
        return None if found is None else str(found.decode())

    def mark(self) -> StoreMark:
        return StoreMark(self.store_id, self._write(scripts.MARK))

    def marked(self) -> StoreMark:
        return StoreMark(self.store_id, int(self._link.call("HGET", self._key("meta"), "sequence")))

    def copy_to(self, path: Path, *, step: int) -> None:
        # Not in one transaction, which would hold up ingest: rows only ever change one by one, each in exactly one
        # state, so that those which arrived before now are a whole store whenever each of them is read.
        head = self._link.run(scripts.HEAD, self._keys, writes=False)
        meta, facts, rejections = (_table(pairs) for pairs in head)
        copy = StoreCopy(
            groups=self._groups(newest=int(meta["arrival"]), step=step),
            facts={**facts, "store_id": self.store_id, "sequence": meta["sequence"]},
            rejections={reason: int(total) for reason, total in rejections.items()},
        )
        write_copy(path, copy)

    def close(self) -> None:
        self._link.close()

    def _groups(self, *, newest: int, step: int) -> Iterator[StoredGroup]:
        """Groups up to arrival ``newest``, with the payloads that a rollback to ``step`` needs."""
        cursor = 0
        while True:
            cursor, page = self._link.call("HSCAN", self._key("groups"), cursor, "COUNT", PAGE)
            groups = [group for group in map(unpacked, page, page.values()) if group.arrival <= newest]
            needed = [group.info.group_id for group in groups if group.needs_payload(step)]
            payloads = self._link.call("HMGET", self._key("payloads"), *needed) if needed else []
            found = dict(zip(needed, payloads, strict=True))
            for group in groups:
                yield group.with_payload(found.get(group.info.group_id))
            if int(cursor) == 0:
                return

    def _leave_queue(self, group_ids: Sequence[str], state: str, reason: str, step: int | None) -> None:
        try:
            self._write(scripts.LEAVE, state, _word(reason), "" if step is None else step, *group_ids)
        except ScriptRefused as refusal:
            word, index, *present = refusal.words
            group_id, wanted = group_ids[int(index)], STATES[state]
            if word == "NEVER":
                raise StateCorrupt(f"store: group {group_id!r} was never received, so it cannot be {wanted}") from None
            at = present[1] or None
            raise StateCorrupt(
                f"store: group {group_id!r} is {STATES[present[0]]} (step {at}), so it cannot be {wanted}"
            ) from None

    def _write(self, script: str, *arguments: str | bytes | int) -> Any:
        """Run a script that writes; its reply."""
        with self._refusals():
            writes, reply = self._link.run(script, self._keys, [self._writer, self._acknowledged, *arguments])
            # Only now: what raised Unavailable may have happened, and is not claimed to have.
            self._acknowledged = max(self._acknowledged, writes)
        return reply

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ScriptRefused as refusal:
            if (told := self._refusal(*refusal.words)) is None:
                raise
            raise StateCorrupt(told) from None

    def _refusal(self, word: str, found: str = "", *_: str) -> str | None:
        where = f"store: {self._link.url} {self._prefix}"
        match word:
            case "WRITER" if found and int(found.split(":")[0]) > int(self._writer.split(":")[0]):
                return f"{where} was opened by another learner since; a run has one, and this one ends"
            case "WRITER" | "LOST":
                lost = f"its last {found} writes" if word == "LOST" else "what this run wrote"
                return (
                    f"{where} came back without {lost}: it was restarted without its file, or failed over to a "
                    "replica that lagged. Resume the run: groups that are missing are sampled again (docs/redis.md)"
                )
            case "GONE":
                return (
                    f"{where}: groups that left the queue cannot be queued again, because step {found} was "
                    f"checkpointed since; resume from step {found} or later, or continue with a copy of the store: "
                    f"{self._way_on}"
                )
            case "FORMAT":
                return (
                    f"{where} has format {found or 'none'}, this version reads {scripts.FORMAT}; start another run, "
                    "or use the version that wrote it"
                )
            case "DAMAGED":
                return f"{where} is damaged: its key meta is missing; continue with a copy: {self._way_on}"
        return None

    def _key(self, name: str) -> str:
        return key_of(self._prefix, name)


def key_of(prefix: str, name: str) -> str:
    """A key of the store."""
    return f"{prefix}:{name}"


def keys_of(prefix: str) -> list[str]:
    """All keys of the store, in the order in which scripts take them."""
    return [key_of(prefix, name) for name in scripts.KEYS]


def row_of(group: StoredGroup) -> str:
    """The row of a group."""
    state = next(short for short, name in STATES.items() if name == group.state)
    step = "" if group.step is None else str(group.step)
    return scripts.SEPARATOR.join((state, step, str(group.arrival), group.reason, _packed(group.info)))


def unpacked(group_id: bytes, row: bytes) -> StoredGroup:
    """A group from its row, without its payload."""
    state, step, arrival, reason, packed = row.decode().split(scripts.SEPARATOR, 4)
    worker_id, environment, oldest_version, num_samples, reward_mean = json.loads(packed)
    return StoredGroup(
        arrival=int(arrival),
        info=GroupInfo(
            group_id=group_id.decode(),
            worker_id=worker_id,
            environment=environment,
            oldest_version=oldest_version,
            num_samples=num_samples,
            reward_mean=reward_mean,
        ),
        state=STATES[state],
        reason=reason,
        step=int(step) if step else None,
    )


def _table(pairs: Sequence[bytes]) -> dict[str, str]:
    """Of a hash as a script returns it: names and values in turn."""
    return {name.decode(): value.decode() for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


def _packed(info: GroupInfo) -> str:
    facts = (info.worker_id, info.environment, info.oldest_version, info.num_samples, info.reward_mean)
    return json.dumps(facts, separators=(",", ":"))


def _word(reason: str) -> str:
    if scripts.SEPARATOR in reason:
        raise InvalidRequest(f"reason: {reason!r} has a control character; give a word")
    return reason
