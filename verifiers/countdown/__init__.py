"""Verifier of Countdown answers."""
