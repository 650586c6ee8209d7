"""Verifiers that call a model over HTTP.

    judge   JudgeVerifier: a language model scores by criteria
    reward  RewardModelVerifier: the scalar of a reward model
    base    ModelVerifier: their common options
    http    Endpoint: JSON over HTTP with deadline and retries

To add one: a subclass of ``base.ModelVerifier`` with ``name``, ``SERVER`` and ``async def verify``, and an entry point.
"""
