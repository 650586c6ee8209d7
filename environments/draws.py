"""Random draws that are the same on every host and Python version: BLAKE2 digests of a key."""

from hashlib import blake2b


def draw(key: str, bound: int) -> int:
    """A number in ``range(bound)`` for a key; uniform up to one part in 2**60 for small bounds."""
    # A digest: ``random`` may draw other integers in another version of Python, and ``hash`` of a text is salted.
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) % bound
