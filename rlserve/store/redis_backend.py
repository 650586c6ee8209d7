"""The store of a run in a Redis server: found by the run's name, tied to its directory.

``redis`` is imported when it is used: it is an extra, and most runs keep a file.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rlserve.config.paths import RunPaths
from rlserve.errors import ConfigError, InvalidRequest, RlserveError
from rlserve.store.base import Store, StoreProblem
from rlserve.store.binding import resume_command

if TYPE_CHECKING:
    from rlserve.store.redis_link import RedisLink
    from rlserve.store.redis_store import RedisStore

CHECK_SECONDS = 2.0
"""For each call of a check: a start should not wait for a server that hangs."""


class RedisBackend:
    """The :class:`rlserve.store.base.StoreBackend` of Redis servers."""

    is_remote = True

    def __init__(self, *, url: str, prefix: str = "rlserve", replicas: int = 0) -> None:
        """``url`` is ``redis://[USER@]HOST:PORT/NUMBER``; of several addresses (``redis://A,B/0``) the master is taken.

        Keys begin with ``prefix`` and the run's name. ``replicas`` must have a group before it counts as received.
        """
        if importlib.util.find_spec("redis") is None:
            raise ConfigError("the Python library of Redis is not installed; pip install 'rlserve[redis]'")
        from rlserve.store.redis_link import addresses

        addresses(url)
        if replicas < 0:
            raise ConfigError(f"replicas: is {replicas}; give 0 or more")
        self._url = url
        self._prefix = prefix
        self._replicas = replicas

    def place(self, paths: RunPaths) -> str:
        return f"{self._url} {self._keys(paths)}:*"

    def exists(self, paths: RunPaths) -> bool:
        from rlserve.store.redis_store import key_of

        with closing(self._link(quick=True)) as link:
            return bool(link.call("EXISTS", key_of(self._keys(paths), "meta")))

    def problems(self, paths: RunPaths) -> Iterator[StoreProblem]:
        from rlserve.store.redis_settings import setting_problems

        try:
            with closing(self._link(quick=True)) as link:
                yield from setting_problems(link, replicas=self._replicas)
        except RlserveError as error:
            told = str(error).removeprefix("store: ").removeprefix("store.options.url: ")
            yield StoreProblem(f"store.options.url: {told}")

    def open(self, paths: RunPaths) -> Store:
        from rlserve.store.redis_settings import setting_problems
        from rlserve.store.redis_store import RedisStore

        link = self._link()
        try:
            # Again, although a launcher has looked: a learner starts alone, too, and perhaps an hour later.
            if faults := [one.message for one in setting_problems(link, replicas=self._replicas) if one.is_fault]:
                raise ConfigError("\n".join(faults))
            store = RedisStore(link, self._keys(paths), way_on=resume_command(paths.root))
        except BaseException:
            link.close()
            raise
        self._claim(store, paths)
        return store

    def peek(self, paths: RunPaths, key: str) -> str | None:
        from rlserve.store.redis_store import key_of

        with suppress(RlserveError), closing(self._link(quick=True)) as link:
            found = link.call("HGET", key_of(self._keys(paths), "facts"), key)
            return None if found is None else str(found.decode())
        return None

    def put_back(self, copy: Path, paths: RunPaths) -> str:
        from rlserve.store.redis_copy import put_back

        with closing(self._link()) as link:
            return f"{self._url} {put_back(link, self._keys(paths), copy)}:*"

    def remember_hub(self, paths: RunPaths, memory: bytes) -> None:
        with closing(self._link(quick=True)) as link:
            link.call("SET", f"{self._keys(paths)}:hub", memory)

    def recall_hub(self, paths: RunPaths) -> bytes | None:
        with closing(self._link(quick=True)) as link:
            found: bytes | None = link.call("GET", f"{self._keys(paths)}:hub")
            return found

    def remove(self, paths: RunPaths) -> None:
        from rlserve.store.redis_store import key_of, keys_of

        prefix = self._keys(paths)
        with closing(self._link()) as link:
            store_id = link.call("HGET", key_of(prefix, "meta"), "store_id")
            if store_id is None:
                return
            claim = self._claim_file(paths)
            if not claim.exists() or claim.read_bytes() != store_id:
                raise InvalidRequest(
                    f"--overwrite: {self.place(paths)} is of a run in another directory; choose another name with "
                    "--set name=NAME, or, if nothing needs it, delete it: "
                    f"`redis-cli -u {self._url} del {' '.join(keys_of(prefix))}`"
                )
            link.call("UNLINK", f"{prefix}:hub", *keys_of(prefix))

    def _claim(self, store: "RedisStore", paths: RunPaths) -> None:
        # So that --overwrite deletes no store of a run of the same name elsewhere.
        paths.root.mkdir(parents=True, exist_ok=True)
        self._claim_file(paths).write_text(store.store_id, encoding="ascii")

    def _claim_file(self, paths: RunPaths) -> Path:
        return paths.root / "store_id"

    def _keys(self, paths: RunPaths) -> str:
        return f"{self._prefix}:{paths.root.resolve().name}"

    def _link(self, *, quick: bool = False) -> "RedisLink":
        from rlserve.store.redis_link import CALL_SECONDS, RedisLink

        seconds = CHECK_SECONDS if quick else CALL_SECONDS
        return RedisLink(self._url, replicas=self._replicas, call_seconds=seconds)
