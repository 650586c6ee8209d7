"""Several verifiers as one."""
