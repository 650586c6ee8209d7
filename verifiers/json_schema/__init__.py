"""Verifier of JSON against a schema."""
