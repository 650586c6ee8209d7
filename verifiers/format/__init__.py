"""Verifier of the form of a completion."""
