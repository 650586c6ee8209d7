"""The base of the verifiers that ask a model behind an HTTP server."""

from rlserve.errors import InvalidRequest
from rlserve.verifiers.model.http import Endpoint

MAX_CHARACTERS = 50_000
"""Of a prompt or completion that is sent. Any value of this size will do: some 12,000 tokens, which fit a context."""
LIMIT_MARGIN_SECONDS = 5.0
"""From the request's own deadline to the pool's: the request ends first, with an error that names the server."""


class RemoteModelVerifier:
    """One model server, with its deadline and its closing.

    Completions wait for the server in ``async def verify``, ``concurrency`` of them at once in one process.
    """

    name = ""
    limits_itself = True
    """The deadline of a request is ``timeout_seconds``; the pool's limit stands behind it."""

    def __init__(
        self,
        *,
        url: str,
        model: str,
        low: float,
        high: float,
        pass_at: float | None,
        key_file: str,
        key_env: str,
        timeout_seconds: float,
        concurrency: int,
    ) -> None:
        if low >= high:
            raise InvalidRequest(f"options.low: is {low}; give a number below high, {high}")
        if concurrency < 1:
            raise InvalidRequest(f"options.concurrency: is {concurrency}; give at least 1")
        self.concurrency = concurrency
        self.limit_seconds = timeout_seconds + LIMIT_MARGIN_SECONDS
        # Without a url the verifier can be made and described; ``_server`` raises when it is to judge.
        self._endpoint = (
            Endpoint(url, key_file=key_file, key_env=key_env, timeout_seconds=timeout_seconds, concurrency=concurrency)
            if url
            else None
        )
        self._model, self._pass_at = model, pass_at

    async def close(self) -> None:
        """Close the connections."""
        if self._endpoint is not None:
            await self._endpoint.close()

    def _server(self, kind: str) -> Endpoint:
        """Return the endpoint. Raises InvalidRequest without one; ``kind`` is the kind of server that is wanted."""
        if self._endpoint is None:
            raise InvalidRequest(f"options.url: is empty; set verifier.options.{self.name}.url to {kind} server")
        return self._endpoint
