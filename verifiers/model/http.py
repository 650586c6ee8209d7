"""JSON over HTTP, with a deadline, retries where they make sense, and errors that say who is to blame."""

import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.errors import InvalidRequest, Unavailable

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.2
MAX_ANSWER_BYTES = 4 * 2**20


class Endpoint:
    """One server. The key, if there is one, comes from a file, and is never in a message or a log."""

    def __init__(self, url: str, *, key_file: str = "", timeout_seconds: float = 20.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"options.url: is {url!r}; give http://HOST:PORT/v1 or https://...")
        self._url = url
        self._parts = parts
        self._timeout_seconds = timeout_seconds
        self._key = Path(key_file).read_text(encoding="utf-8").strip() if key_file else ""

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer's JSON. Raises Unavailable when there is none in time: then there is no verdict."""
        deadline = time.monotonic() + self._timeout_seconds
        pause, problem = FIRST_PAUSE_SECONDS, "no time left"
        while (left := deadline - time.monotonic()) > 0:
            try:
                status, content = self._send(path, body, left)
            except (OSError, http.client.HTTPException) as error:
                status, content = 503, str(error).encode() or type(error).__name__.encode()
            if status == 200:
                return _json(content, self._url)
            problem = f"status {status}: {content[:200].decode('utf-8', 'replace')}"
            if status not in RETRIED:
                raise Unavailable(f"{self._url}{path}: {problem}; check the verifier's options")
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause *= 2
        raise Unavailable(f"{self._url}{path}: no answer within {self._timeout_seconds:g} s ({problem})")

    def _send(self, path: str, body: Mapping[str, Any], seconds: float) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.netloc, timeout=max(0.05, seconds))
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            connection.request("POST", self._parts.path.rstrip("/") + path, json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER_BYTES)
        finally:
            connection.close()


def _json(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"{url}: the answer is no JSON; is it an OpenAI-compatible server?") from error
