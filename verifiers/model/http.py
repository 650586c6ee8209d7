"""JSON over HTTP, with a deadline, retries where they make sense, and errors that name the side at fault."""

import asyncio
import json
import os
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from rlserve.errors import InvalidRequest, Unavailable

# Timeouts, conflicts, rate limits and overload pass; other 4xx answers come again for the same request.
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.2
"""Before the first retry; each pause is twice the one before. Any value of this size will do."""
UNREACHABLE_SECONDS = 10.0
"""A server that cannot be reached for this long is given up. It covers a restart; without it a wrong address would
use up the whole deadline of each completion."""
MAX_ANSWER_BYTES = 4 * 2**20
"""Of one answer, which is read into memory. Any value of this size will do: an answer has a few kilobytes."""


class Endpoint:
    """One server, asked many times at once over pooled connections. Use it from one event loop.

    The key, if there is one, is read from a file or an environment variable and appears in no message or log.

    Example::

        endpoint = Endpoint("http://127.0.0.1:8000/v1", timeout_seconds=30)
        answer = await endpoint.post("/chat/completions", {"model": "judge", "messages": [...]})
        await endpoint.close()
    """

    def __init__(
        self, url: str, *, key_file: str = "", key_env: str = "", timeout_seconds: float = 20.0, concurrency: int = 64
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"options.url: is {url!r}; give http://HOST:PORT/v1 or https://...")
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._concurrency = concurrency
        key = _key(key_file, key_env)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client: httpx.AsyncClient | None = None
        """Made by the first request, since a client belongs to the event loop in which it connects."""

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the answer's JSON. Raises Unavailable when there is none in time; the caller then has no verdict."""
        start = time.monotonic()
        pause, problem = FIRST_PAUSE_SECONDS, "no time left"
        while (left := start + self._timeout_seconds - time.monotonic()) > 0:
            try:
                # One deadline over all tries; httpx's own timeouts start again with each read.
                async with asyncio.timeout(left):
                    status, content = await self._send(path, body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                # A connection that broke is retried up to the deadline, one that was never made is given up earlier.
                if isinstance(error, httpx.ConnectError) and time.monotonic() - start > UNREACHABLE_SECONDS:
                    raise Unavailable(f"{self._url}{path}: cannot be reached ({problem})") from error
            except TimeoutError:
                # An earlier problem is the cause of the deadline that followed it.
                problem = problem if problem != "no time left" else "it took the request and is silent"
                break
            else:
                if status == 200:
                    return _json(content, self._url)
                problem = f"status {status}: {content[:200].decode('utf-8', 'replace')}"
                if status not in RETRIED:
                    hint = "; url usually ends in /v1" if status == 404 else ""
                    raise Unavailable(f"{self._url}{path}: {problem}; check the verifier's options{hint}")
            await asyncio.sleep(min(pause, max(0.0, start + self._timeout_seconds - time.monotonic())))
            pause *= 2
        raise Unavailable(f"{self._url}{path}: no answer within {self._timeout_seconds:g} s ({problem})")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _send(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        if self._client is None:
            limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
            # trust_env=False: verifiers run in an empty environment, and no proxy may come from another source either.
            # timeout=None: ``post`` has one deadline for all tries, httpx's would count each phase of a request.
            self._client = httpx.AsyncClient(headers=self._headers, limits=limits, timeout=None, trust_env=False)
        content = bytearray()
        async with self._client.stream("POST", self._url + path, json=dict(body)) as response:
            # Read in pieces, so that an endless answer stops at the limit, not when memory is full.
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise Unavailable(f"{self._url}{path}: the answer is longer than {MAX_ANSWER_BYTES} bytes")
            return response.status_code, bytes(content)


def _key(key_file: str, key_env: str) -> str:
    if key_file and key_env:
        raise InvalidRequest("options.key_file, options.key_env: give one of the two")
    if key_env and key_env not in os.environ:
        raise InvalidRequest(
            f"options.key_env: {key_env!r} is not set for verifiers; export it, and name it in verifier.environment"
        )
    # Stripped: editors end a file with a line feed, which no header may contain.
    return (Path(key_file).read_text(encoding="utf-8") if key_file else os.environ.get(key_env, "")).strip()


def _json(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"{url}: the answer is not JSON; is it an OpenAI-compatible server?") from error
