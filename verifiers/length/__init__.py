"""Verifier of the length of a completion."""
