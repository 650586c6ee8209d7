"""What servers and callers of teachers agree on."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message: the top k of a long sequence, or a whole vocabulary."""
