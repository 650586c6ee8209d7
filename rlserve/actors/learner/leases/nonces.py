"""Nonces prove that a lease was granted to a worker: unguessable, new for each grant, checked without a list of them.

A nonce is a random salt and a keyed digest of (salt, group, worker). The key is the run's and is kept in the store, so
a worker can prove what it holds to a learner that was restarted meanwhile.
"""

import hmac
import secrets
from hashlib import blake2b

KEY_BYTES = 32  # of the digest that it keys: a longer key adds nothing
_SALT_BYTES = 8  # two grants of one lease must differ; 2**64 values do
_DIGEST_BYTES = 16
"""128 bits cannot be guessed; the salt need only differ between grants of one lease."""


class Nonces:
    """Makes and checks the nonces of one run. Thread-safe: it never changes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @staticmethod
    def new_key() -> bytes:
        """A key for a new run."""
        return secrets.token_bytes(KEY_BYTES)

    def make(self, group_id: str, worker_id: str) -> str:
        """For one grant of a lease to a worker."""
        salt = secrets.token_hex(_SALT_BYTES)
        return f"{salt}{self._digest(salt, group_id, worker_id)}"

    def proves(self, nonce: str, group_id: str, worker_id: str) -> bool:
        """Whether the lease was ever granted to the worker with this nonce."""
        salt, digest = nonce[: 2 * _SALT_BYTES], nonce[2 * _SALT_BYTES :]
        # isascii first: compare_digest raises TypeError for other text. It takes equally long wherever the two differ,
        # so that the time of an answer tells nothing about the digest.
        return digest.isascii() and hmac.compare_digest(digest, self._digest(salt, group_id, worker_id))

    def _digest(self, salt: str, group_id: str, worker_id: str) -> str:
        # Lengths first, so that no other split of the same characters has this digest.
        text = f"{len(group_id)}/{len(worker_id)}/{salt}{group_id}{worker_id}"
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=_DIGEST_BYTES).hexdigest()
