"""Verifier of reasoning-gym's tasks: their own scorers."""
