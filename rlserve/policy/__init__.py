"""Weights on the move: what a version is, how it is published, fetched, and checked."""
