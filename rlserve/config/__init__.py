"""Run configuration: strict pydantic sections, one per actor and per algorithm. Imports no torch."""
