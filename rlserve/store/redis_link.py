"""One connection to the Redis server that takes writes, and what each of its errors means to a run.

Nothing waits here: a call succeeds or raises within CALL_SECONDS. ``store.patient`` tries again what was Unavailable.

================================== ============== ==================================================================
error                              raised as      why
================================== ============== ==================================================================
no connection, a deadline, loading Unavailable    the server is away, or starts
READONLY, no master                Unavailable    a replica is about to be promoted, perhaps another of the addresses
MISCONF                            Unavailable    it cannot write to its disk; it goes on once there is room
too few replicas                   Unavailable    the write may have happened; it is repeated
OOM                                NotReady       its memory limit is reached; training on what is queued frees memory
NOAUTH, WRONGPASS, NOPERM          ConfigError    only the user can mend it
================================== ============== ==================================================================
"""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rlserve.errors import ConfigError, NotReady, RlserveError, StateCorrupt, Unavailable

PASSWORD_VARIABLE = "RLSERVE_REDIS_PASSWORD"
"""Environment variable with the password: a configuration is copied to disk, shown and sent on."""
CONNECT_SECONDS = 2.0
"""Any address in reach answers in less; two of them still fit into the five seconds of a check before the start."""
CALL_SECONDS = 10.0
"""A call of 16 MiB takes a fraction of it, also over a slow network."""
WAIT_SECONDS = 2.0
"""For replicas to confirm a write; they are some milliseconds behind."""
Command = Sequence[str | bytes | int | float]


class ScriptRefused(Exception):
    """A script of the store refused what it was asked; ``words`` are its reply without the prefix."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(" ".join(words))
        self.words = words


PREFIX = "RLSERVE "
"""Of the errors that our scripts raise."""


class RedisLink:
    """A connection that is made when it is first needed, and again after an error. Thread-safe: one call at a time.

    Example, with the second server promoted after the first one died::

        link = RedisLink("redis://a:6379,b:6379/0")
        link.call("PING")      # at a
        link.call("PING")      # Unavailable: a is gone
        link.call("PING")      # at b, once it is a master
    """

    def __init__(self, url: str, *, replicas: int = 0, call_seconds: float = CALL_SECONDS) -> None:
        """``url`` has one address or several, of which the master is taken; ``replicas`` must confirm each ``run``.

        Raises ConfigError for a malformed one.
        """
        self.url = url
        self._replicas = replicas
        self._call_seconds = call_seconds
        self._lock = threading.RLock()
        self._client: redis.Redis | None = None
        self._digests: dict[str, str] = {}
        self._clients = [self._made(one) for one in addresses(url)]

    def call(self, *command: str | bytes | int | float) -> Any:
        """The reply to one command."""
        with self._translated() as client:
            return client.execute_command(*command)

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to several commands, sent at once."""
        with self._translated() as client:
            return _replies(client, commands)

    def run(self, script: str, keys: Sequence[str], arguments: Command = (), *, writes: bool = True) -> Any:
        """The reply of a Lua script; if it ``writes``, confirmed by the replicas. Raises ScriptRefused.

        An Unavailable leaves open whether it has run.
        """
        with self._translated() as client:
            if script not in self._digests:
                self._digests[script] = str(client.script_load(script))
            commands: list[Command] = [("EVALSHA", self._digests[script], len(keys), *keys, *arguments)]
            if writes and self._replicas:
                commands.append(("WAIT", self._replicas, int(1000 * WAIT_SECONDS)))
            reply, *confirmed = _replies(client, commands)
        if confirmed and confirmed[0] < self._replicas:
            raise Unavailable(
                f"store: {confirmed[0]} of {self._replicas} replicas (store.options.replicas) confirmed a write within "
                f"{WAIT_SECONDS:g} s; look at `INFO replication` of {self.url}"
            )
        return reply

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            for client in self._clients:
                client.close()
            self._client = None

    def _made(self, url: str) -> redis.Redis:
        return redis.Redis.from_url(
            url,
            password=os.environ.get(PASSWORD_VARIABLE) or None,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=self._call_seconds,
            single_connection_client=False,
            max_connections=1,
            client_name="rlserve",
            # Its own retries would repeat a write without asking whether it happened.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def _connected(self) -> redis.Redis:
        if self._client is not None:
            return self._client
        problems = []
        for client, url in zip(self._clients, addresses(self.url), strict=True):
            try:
                role = client.execute_command("ROLE")[0]
            except redis.RedisError as error:
                meant = meaning(error, url)
                if not isinstance(meant, Unavailable):
                    raise meant from error
                problems.append(str(meant))
                continue
            if role == b"master":
                self._client, self._digests = client, {}  # a server that restarted has forgotten the scripts
                return client
            problems.append(f"store: {url} is a {role.decode()}, and takes no writes")
        raise Unavailable("; ".join(problems))

    @contextmanager
    def _translated(self) -> Iterator[redis.Redis]:
        with self._lock:
            client = self._connected()
            try:
                yield client
            except redis.RedisError as error:
                meant = meaning(error, self.url)
                if isinstance(meant, Unavailable):
                    # Look for the master again, over a new connection: an old one may hold half of a reply.
                    client.connection_pool.disconnect()
                    self._client = None
                raise meant from error


def _replies(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    # Not raised by the pipeline, which would put the command into the message, payloads and all.
    replies = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return list(replies)


def addresses(url: str) -> list[str]:
    """One URL for each address. Raises ConfigError for a malformed one.

    Example: ``redis://u@a:1,b:2/3`` gives ``redis://u@a:1/3`` and ``redis://u@b:2/3``.
    """
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    urls = [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]
    for one in urls:
        try:
            redis.connection.parse_url(one)
            _ = urlsplit(one).port
        except ValueError as error:
            raise ConfigError(f"url: is {url!r} ({error}); give redis://HOST:PORT/NUMBER") from None
    if parts.scheme != "unix" and not (all(hosts.split(",")) and re.fullmatch(r"/?\d*", parts.path)):
        raise ConfigError(f"url: is {url!r}; give redis://HOST:PORT/NUMBER")
    return urls


def meaning(error: redis.RedisError, url: str) -> RlserveError | ScriptRefused:
    """What an error of the library means; see the table above."""
    text = str(error)
    if text.startswith(PREFIX):
        return ScriptRefused(text.removeprefix(PREFIX).split(" "))
    password = os.environ.get(PASSWORD_VARIABLE)
    if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        problem = f"refuses the password in {PASSWORD_VARIABLE}" if password else f"wants one in {PASSWORD_VARIABLE}"
        return ConfigError(f"store.options.url: {url} {problem} ({text})")
    if isinstance(error, redis.exceptions.NoPermissionError):
        return ConfigError(f"store.options.url: the user of {url} may not do what a store does ({text})")
    if "OOM command not allowed" in text:
        return NotReady(
            f"store: {url} has reached its memory limit; raise it (redis-cli -u {url} config set maxmemory BYTES), or "
            "save checkpoints more often, which frees the groups trained on (checkpoint.every_steps)"
        )
    if "MISCONF" in text:
        return Unavailable(f"store: {url} cannot write to its disk ({text}); make room there, or see its log")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return Unavailable(f"store: {url} cannot be reached ({text})")
    passing = ("READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "BUSY", "NOSCRIPT", "UNBLOCKED", "CLUSTERDOWN")
    if any(word in text for word in passing):
        return Unavailable(f"store: {url} takes no writes ({text})")
    return StateCorrupt(f"store: {url} answered what it should not ({text}); is another program using these keys?")
