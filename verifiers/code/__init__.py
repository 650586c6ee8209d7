"""Verifier of programs: runs them in the sandbox."""
