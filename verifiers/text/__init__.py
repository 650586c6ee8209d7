"""Judges text by comparison: the cheapest verifiers."""
